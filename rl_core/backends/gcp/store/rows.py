"""Converts rows of the log for BigQuery and back; every value comes back as it went in."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.schema import Column, arrow_schema

_MAP = pa.map_(pa.string(), pa.string())


def stored(rows: pa.Table) -> pa.Table:
    """Convert rows to BigQuery's types: a map becomes the text of a JSON object."""
    for at, field in enumerate(rows.schema):
        if field.type.equals(_MAP):
            texts = [
                None if v is None else json.dumps(dict(v), ensure_ascii=False) for v in rows[field.name].to_pylist()
            ]
            rows = rows.set_column(at, pa.field(field.name, pa.string(), field.nullable), pa.array(texts, pa.string()))
    return rows


def read(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Convert rows as BigQuery gave them to our types. It keeps no null list: an empty one is null where it may be."""
    columns = []
    for field in schema:
        column = rows[field.name]
        if field.type.equals(_MAP):
            pairs = [None if v is None else list(json.loads(v).items()) for v in column.to_pylist()]
            columns.append(pa.array(pairs, field.type))
        elif field.nullable and pa.types.is_list(field.type):
            listed = column.cast(field.type)
            columns.append(pc.if_else(pc.greater(pc.list_value_length(listed), 0), listed, pa.scalar(None, field.type)))
        else:
            columns.append(column.cast(field.type))
    return pa.table(columns, schema=schema)


def parquet(rows: pa.Table) -> io.BytesIO:
    """Write rows as a Parquet file in memory, for a load job."""
    from pyarrow import parquet as pq

    written = io.BytesIO()
    pq.write_table(rows, written, compression="snappy")
    written.seek(0)
    return written


def in_json(rows: pa.Table | Sequence[Mapping[str, Any]], columns: tuple[Column, ...]) -> list[dict[str, Any]]:
    """Convert rows for insertAll: timestamps with their offset from UTC, nulls left out.

    Raises:
        SchemaError: the rows are none of this table's.
    """
    from rl_core.backends.conform import conform

    schema = arrow_schema(columns)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    table = stored(conform(table, schema))
    convert: dict[str, Callable[[Any], Any]] = {c.name: datetime.isoformat for c in columns if c.type == "timestamp"}
    return [
        {name: convert.get(name, _same)(value) for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]


def _same(value: Any) -> Any:
    return value
