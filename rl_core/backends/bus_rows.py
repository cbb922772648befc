"""Turns payloads of the message bus into rows of the log. The bus's stamps are added here; no payload can set them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from rl_core.backends.contracts.bus import Delivery, Topic
from rl_core.errors import SchemaError
from rl_core.schema import REJECTED_EVENT_SCHEMA, TABLES, Column, arrow_schema

_STAMPS = ("received_at", "producer", "offset")
_MISFITS = (ValueError, TypeError, AttributeError, pa.ArrowException)


def rows_of(topic: Topic, deliveries: Sequence[Delivery], producer: str) -> dict[str, pa.Table]:
    """Turn deliveries into rows, by table: of the topic, for rewards also of `activations`, and dead letters.

    What doesn't fit the log is a dead letter, in `rejected_events`.
    """
    try:
        return _rows(topic, deliveries, producer) | {"rejected_events": REJECTED_EVENT_SCHEMA.empty_table()}
    except _MISFITS as error:
        if len(deliveries) == 1:
            (delivery,) = deliveries
            return _rows(topic, [], producer) | {"rejected_events": _rejected(topic, delivery, producer, error)}
    half = len(deliveries) // 2
    one, other = (rows_of(topic, part, producer) for part in (deliveries[:half], deliveries[half:]))
    return {name: pa.concat_tables([one[name], other[name]]) for name in one}


def row_of(topic: Topic, delivery: Delivery, producer: str) -> tuple[str, pa.Table]:
    """Turn one delivery into a row; return its table and it. Raises SchemaError naming the offset."""
    try:
        tables = _rows(topic, [delivery], producer)
    except _MISFITS as error:
        raise SchemaError(_misfit(topic, delivery, error)) from error
    return next((name, rows) for name, rows in tables.items() if rows.num_rows)


def _misfit(topic: Topic, delivery: Delivery, error: Exception) -> str:
    return f"{topic} offset {delivery.offset} on the bus (event_id {delivery.key!r}) doesn't fit the log: {error}"


def _rejected(topic: Topic, delivery: Delivery, producer: str, error: Exception) -> pa.Table:
    row = {
        "kind": topic.removesuffix("s"),
        # What is gone has no stamp any more, and is news: monitors look at what was set apart of late.
        "received_at": delivery.received_at if delivery.payload else datetime.now(UTC),
        "producer": producer,
        "offset": delivery.offset,
        "payload": delivery.payload.decode(errors="replace"),
        "reason": _misfit(topic, delivery, error),
    }
    return pa.Table.from_pylist([row], schema=REJECTED_EVENT_SCHEMA)


def _rows(topic: Topic, deliveries: Sequence[Delivery], producer: str) -> dict[str, pa.Table]:
    import orjson  # not there in Composer, which imports this module but has no bus to read

    if not all(delivery.payload for delivery in deliveries):
        raise ValueError("its message is gone: it was forgotten, or lost to damage of the bus")
    read = [(delivery, orjson.loads(delivery.payload)) for delivery in deliveries]
    if topic != "rewards":
        return {topic: _table(topic, read, producer)}
    earned = [one for one in read if not one[1].get("activation")]
    activated = [one for one in read if one[1].get("activation")]
    return {"rewards": _table("rewards", earned, producer), "activations": _table("activations", activated, producer)}


def _table(name: str, read: Sequence[tuple[Delivery, Any]], producer: str) -> pa.Table:
    columns: list[pa.Array] = []
    for column, field in zip(TABLES[name], arrow_schema(TABLES[name]), strict=True):
        if column.name == "producer":
            values: list[Any] = [producer] * len(read)
        elif column.name in _STAMPS:
            values = [getattr(delivery, column.name) for delivery, _ in read]
        else:
            values = [_value(payload.get(column.name), column) for _, payload in read]
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ValueError(f"{column.name}: {error}") from error
    return pa.table(columns, schema=arrow_schema(TABLES[name]))


def _value(value: Any, column: Column) -> Any:
    if value is None:
        if not column.nullable:
            raise ValueError(f"{column.name} is missing")
    elif column.type == "timestamp":
        value = datetime.fromisoformat(value)
        if value.tzinfo is None:
            raise ValueError(f"{column.name} has no offset from UTC")
    elif column.type == "map":
        value = list(value.items())
    return value
