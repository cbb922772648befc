"""What of the events that servers confirmed is in BigQuery, between two heartbeats."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.gcp.store.tables import ensure_tables
from rl_core.config import Bandit, Settings
from rl_core.google_cloud.clients import GoogleClients
from rl_core.monitoring.delivery import Delivery, bigquery_delivery
from rl_core.monitoring.log_figures import LogFigures
from stand_ins.cloud import Cloud

NOW = datetime.now(UTC)


def ago(minutes: float) -> str:
    return (NOW - timedelta(minutes=minutes)).isoformat()


@pytest.fixture
def clients(tmp_path: Path, cloud_movielens: Bandit, settings: Settings) -> Iterator[GoogleClients]:
    with Cloud(tmp_path / "cloud") as cloud:
        endpoint = cloud.environment("rest")["BANDIT_GOOGLE_ENDPOINT"]
        clients = GoogleClients(cloud_movielens, settings.model_copy(update={"google_endpoint": endpoint}))
        ensure_tables(clients)
        yield clients
        clients.close()


def insert(clients: GoogleClients, table: str, *rows: dict[str, Any]) -> None:
    assert clients.bigquery.insert_rows_json(clients.names.table(table), list(rows)) == []


def heartbeat(minutes: float, decisions: int, rewards: int, producer: str = "bus-1") -> dict[str, Any]:
    return {"producer": producer, "decisions": decisions, "rewards": rewards, "at": ago(minutes)}


def reward(offset: int, minutes: float, producer: str = "bus-1") -> dict[str, Any]:
    known = {"event_id": f"e{offset}", "reward": 1.0, "observed_at": ago(minutes)}
    return {**known, "producer": producer, "offset": offset, "received_at": ago(minutes)}


def test_what_was_confirmed_and_is_not_there_is_missing(clients: GoogleClients) -> None:
    insert(clients, "heartbeats", heartbeat(40, 0, 100), heartbeat(30, 0, 103), heartbeat(20, 0, 105))
    insert(clients, "heartbeats", heartbeat(1, 0, 999))  # too young: its events may be on their way
    insert(clients, "heartbeats", heartbeat(90, 0, 0), heartbeat(20, 0, 0, "bus-joiner"))
    insert(clients, "rewards", *(reward(n, 35) for n in (99, 101, 102, 104, 104)))
    seen = bigquery_delivery(clients.bandit, BigQueryEventStore(clients), NOW, 1, NOW)
    assert seen == Delivery(
        acknowledged=5, stored=3, rejected=0, watermark=NOW, gaps=1, log=LogFigures(rewards=4, rewards_of_late=4)
    )


def test_a_bandit_without_traffic_misses_nothing(clients: GoogleClients) -> None:
    assert bigquery_delivery(clients.bandit, BigQueryEventStore(clients), None, 0, NOW) == Delivery(0, 0)
