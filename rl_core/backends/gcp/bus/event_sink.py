"""The event logger where Pub/Sub pushes: each message becomes a row, at least once; readers drop what came twice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, cast

import pyarrow as pa

from rl_core.backends.bus_rows import row_of
from rl_core.backends.gcp.bus.messages import TOPICS, Event, Heartbeat
from rl_core.errors import SchemaError
from rl_core.schema import HEARTBEAT, REJECTED_EVENT, arrow_schema

Streamed = Literal["decisions", "rewards", "activations", "heartbeats", "rejected_events"]
_log = logging.getLogger(__name__)


class StreamingStore(Protocol):
    """A store that takes rows one by one; what the sink writes to."""

    def stream(self, table: Streamed, rows: pa.Table) -> None:
        """Add the rows. Raises StoreError: try again; a row that arrives twice is known by producer and offset."""


class EventSink:
    """Writes each pushed message into its table; the logger function calls it."""

    def __init__(self, store: StreamingStore) -> None:
        self._store = store

    def take(self, payload: bytes, attributes: Mapping[str, str], published_at: datetime | None = None) -> Streamed:
        """Store one message; return the table that has it now: `rejected_events` for what can't be a row of the log.

        Args:
            published_at: when Pub/Sub took the message.

        Raises:
            StoreError: the store did not take it; deliver the message again.
        """
        try:
            table, rows = _row(payload, attributes, published_at)
        except SchemaError as error:
            _log.error("a message was rejected: %s", error)
            table, rows = "rejected_events", _rejected(payload, attributes, str(error))
        self._store.stream(table, rows)
        return table


def _row(payload: bytes, attributes: Mapping[str, str], published_at: datetime | None) -> tuple[Streamed, pa.Table]:
    event = Event.of(payload, attributes)
    if event.kind == "heartbeat":
        delivered = {"published_at": published_at, "stored_at": datetime.now(UTC)}
        return "heartbeats", _table(HEARTBEAT, Heartbeat.of(payload).row | delivered)
    table, rows = row_of(TOPICS[event.kind], event.delivery, event.producer)
    return cast(Streamed, table), rows


def _rejected(payload: bytes, attributes: Mapping[str, str], reason: str) -> pa.Table:
    """Its producer and offset, so that it leaves no gap, as far as the message tells them."""
    try:
        received_at = datetime.fromisoformat(attributes["received_at"]).astimezone(UTC)
    except (KeyError, ValueError):
        received_at = datetime.now(UTC)
    offset = attributes.get("offset", "")
    row = {
        "kind": attributes.get("kind", ""),
        "producer": attributes.get("producer", ""),
        "offset": int(offset) if offset.isdecimal() and len(offset) < 19 else 0,
        "received_at": received_at,
        "payload": payload.decode(errors="replace"),
        "reason": reason,
    }
    return _table(REJECTED_EVENT, row)


def _table(columns: Any, row: Mapping[str, Any]) -> pa.Table:
    return pa.table([[row[column.name]] for column in columns], schema=arrow_schema(columns))
