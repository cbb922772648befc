"""Decisions and rewards for the joiner, told by what it goes by: event, times, producer, offset."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pyarrow as pa

from rl_core.backends.contracts.store import EventStore, JoinableStore
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.schema import ACTIVATION_SCHEMA, DECISION_SCHEMA, REWARD_SCHEMA

START = datetime(2026, 1, 1, tzinfo=UTC)
WAIT_S = 10
BUS, JOB = "bus-1", "generator-1"


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def decision(
    event_id: str,
    decided: float,
    offset: int = 1,
    producer: str = BUS,
    served: bool = True,
    received: float | None = None,
    deferred: bool | None = None,
    subject: str | None = None,
) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "decided_at": at(decided),
        "received_at": at(decided if received is None else received),
        "policy_version": "v1",
        "observation": [0.1, -2.5],
        "observation_version": "o1",
        "action_id": "movie-2",
        "action_set_version": "a1",
        "eligible_action_ids": ["movie-1", "movie-2"] if offset % 2 else None,
        "propensity": 0.975,
        "epsilon": 0.05,
        "source": "client",
        "served": served,
        "schema_version": 1,
        "policy_info": [("mood", "good")] if offset % 2 else None,
        "deferred": deferred,
        "subject": subject,
        "producer": producer,
        "offset": offset,
    }


def reward(event_id: str, received: float, offset: int = 1, value: float = 4.0, producer: str = BUS) -> dict[str, Any]:
    times = {"observed_at": at(received - 0.5), "received_at": at(received)}
    return {"event_id": event_id, "reward": value, "producer": producer, "offset": offset, **times}


def activation(event_id: str, received: float, offset: int = 1, producer: str = BUS) -> dict[str, Any]:
    times = {"observed_at": at(received - 0.5), "received_at": at(received)}
    return {"event_id": event_id, "activation": True, "producer": producer, "offset": offset, **times}


def older_activation(event_id: str, received: float, offset: int = 1, producer: str = BUS) -> dict[str, Any]:
    """As logs hold it that are older than the table `activations`: a reward with a made-up value."""
    return reward(event_id, received, offset, 0.0, producer) | {"activation": True}


def decisions(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=DECISION_SCHEMA)


def rewards(*rows: dict[str, Any]) -> pa.Table:
    """Of them, those that lie in the table `rewards`."""
    return pa.Table.from_pylist([row for row in rows if "reward" in row], schema=REWARD_SCHEMA)


def activations(*rows: dict[str, Any]) -> pa.Table:
    """Of them, those that lie in the table `activations`."""
    return pa.Table.from_pylist([row for row in rows if "reward" not in row], schema=ACTIVATION_SCHEMA)


def log(store: EventStore, *rows: dict[str, Any]) -> None:
    """Store rewards and activations of one producer as the logger of the store's backend does."""
    if isinstance(store, BigQueryEventStore):
        store.stream("rewards", rewards(*rows))
        store.stream("activations", activations(*rows))
    else:
        cast(JoinableStore, store).append("rewards", rewards(*rows), {"activations": activations(*rows)})
