"""Payloads of the message bus as rows of the log. The bus's stamps are added here; a payload can't set them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa

from rl_core.backends.base import Delivery, Topic
from rl_core.errors import SchemaError
from rl_core.schema import TABLES, Column, arrow_schema

_STAMPS = ("received_at", "producer", "offset")
_MISFITS = (ValueError, TypeError, AttributeError, pa.ArrowException)


def rows_of(topic: Topic, deliveries: Sequence[Delivery], producer: str) -> pa.Table:
    """The rows of the table called like the topic. Raises SchemaError naming the first offset that doesn't fit."""
    try:
        return _rows(topic, deliveries, producer)
    except _MISFITS:
        for delivery in deliveries:
            try:
                row_of(topic, delivery, producer)
            except SchemaError as error:
                raise SchemaError(f"{error}; nothing after it is read until this is mended") from error
        raise


def row_of(topic: Topic, delivery: Delivery, producer: str) -> pa.Table:
    """As `rows_of`, of one delivery."""
    try:
        return _rows(topic, [delivery], producer)
    except _MISFITS as error:
        raise SchemaError(
            f"{topic} offset {delivery.offset} on the bus (event_id {delivery.key!r}) doesn't fit the log: {error}"
        ) from error


def _rows(topic: Topic, deliveries: Sequence[Delivery], producer: str) -> pa.Table:
    payloads = [orjson.loads(delivery.payload) for delivery in deliveries]
    columns: list[pa.Array] = []
    for column, field in zip(TABLES[topic], arrow_schema(TABLES[topic]), strict=True):
        if column.name == "producer":
            values: list[Any] = [producer] * len(deliveries)
        elif column.name in _STAMPS:
            values = [getattr(delivery, column.name) for delivery in deliveries]
        else:
            values = [_value(payload.get(column.name), column) for payload in payloads]
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise ValueError(f"{column.name}: {error}") from error
    return pa.table(columns, schema=arrow_schema(TABLES[topic]))


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
