"""Events as messages of Pub/Sub: the payload as data, the bus's stamps as attributes.

kind         decision | reward | heartbeat
producer     who accepted it
offset       gap-free from 1 within (producer, kind); 0 for heartbeats
received_at  ISO 8601 with microseconds, UTC
key          event_id; the producer's name for heartbeats
"""

from __future__ import annotations

import json  # not orjson: Airflow's tasks send heartbeats too, and Composer brings none
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from rl_core.backends.contracts.bus import Delivery, Topic
from rl_core.errors import SchemaError

Kind = Literal["decision", "reward", "heartbeat"]
KINDS: dict[Topic, Kind] = {"decisions": "decision", "rewards": "reward"}
TOPICS: dict[str, Topic] = {kind: topic for topic, kind in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Event:
    """A decision, reward or heartbeat with its stamps, on its way through Pub/Sub."""

    kind: Kind
    producer: str
    offset: int
    received_at: datetime
    key: str
    payload: bytes

    @property
    def attributes(self) -> dict[str, str]:
        return {
            "kind": self.kind,
            "producer": self.producer,
            "offset": str(self.offset),
            "received_at": self.received_at.isoformat(timespec="microseconds"),
            "key": self.key,
        }

    @classmethod
    def of(cls, payload: bytes, attributes: Mapping[str, str]) -> Self:
        """Read the event of a message. Raises SchemaError naming the attribute that is missing or wrong."""
        try:
            kind, offset = attributes["kind"], int(attributes["offset"])
            received_at = datetime.fromisoformat(attributes["received_at"])
            if received_at.tzinfo is None:
                raise ValueError(f"received_at {attributes['received_at']!r} has no offset from UTC")
            if kind not in ("heartbeat", *TOPICS):
                raise ValueError(f"kind is {kind!r}, not decision, reward or heartbeat")
            producer, key = attributes["producer"], attributes["key"]
        except KeyError as error:
            raise SchemaError(f"the message has no attribute {error}") from error
        except ValueError as error:
            raise SchemaError(f"the message's attributes: {error}") from error
        return cls(kind, producer, offset, received_at, key, payload)  # type: ignore[arg-type]  # one of them

    @property
    def delivery(self) -> Delivery:
        return Delivery(self.offset, self.key, self.payload, self.received_at)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A server's statement: what `producer` accepted before `at` has offsets up to these.

    Args:
        ended: it accepts nothing more under this name.
    """

    producer: str
    decisions: int
    rewards: int
    at: datetime
    ended: bool = False

    @property
    def row(self) -> dict[str, Any]:
        """The row for the table `heartbeats`."""
        return {
            "producer": self.producer,
            "decisions": self.decisions,
            "rewards": self.rewards,
            "at": self.at,
            "ended": self.ended,
        }

    @property
    def event(self) -> Event:
        payload = json.dumps({**self.row, "at": self.at.isoformat(timespec="microseconds")}).encode()
        return Event("heartbeat", self.producer, 0, self.at, self.producer, payload)

    @classmethod
    def of(cls, payload: bytes) -> Self:
        """Read a heartbeat from its payload. Raises SchemaError."""
        try:
            given = json.loads(payload)
            at = datetime.fromisoformat(given["at"])
            if at.tzinfo is None:
                raise ValueError("at has no offset from UTC")
            return cls(
                str(given["producer"]), int(given["decisions"]), int(given["rewards"]), at, bool(given.get("ended"))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SchemaError(f"not a heartbeat: {error!r}") from error
