"""BigQuery's types and values, and DuckDB's and Arrow's for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from stand_ins.bigquery.errors import BigQueryError

Field = Mapping[str, Any]
"""A TableFieldSchema."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STANDARD = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD"}
_DUCKDB = {
    "STRING": "VARCHAR",
    "INTEGER": "BIGINT",
    "FLOAT": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "TIMESTAMP": "TIMESTAMPTZ",
    "DATE": "DATE",
    "DATETIME": "TIMESTAMP",
    "JSON": "VARCHAR",
    "BYTES": "BLOB",
}
_ARROW = {
    "STRING": pa.string(),
    "INTEGER": pa.int64(),
    "FLOAT": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "DATE": pa.date32(),
    "DATETIME": pa.timestamp("us"),
    "JSON": pa.string(),
    "BYTES": pa.binary(),
}


def legacy(name: str) -> str:
    """ "INTEGER" for "INT64"; raises BigQueryError where BigQuery (or this stand-in) has no such type."""
    found = _STANDARD.get(name.upper(), name.upper())
    if found not in _DUCKDB:
        raise BigQueryError(400, f"Invalid value for type: {name} is not a valid value")
    return found


def duckdb_type(field: Field) -> str:
    return _DUCKDB[legacy(field["type"])] + ("[]" if field.get("mode") == "REPEATED" else "")


def arrow_type(field: Field) -> pa.DataType:
    one = _ARROW[legacy(field["type"])]
    return pa.list_(one) if field.get("mode") == "REPEATED" else one


def arrow_schema(fields: Sequence[Field]) -> pa.Schema:
    return pa.schema([(field["name"], arrow_type(field)) for field in fields])


def fields_of(schema: pa.Schema) -> list[dict[str, str]]:
    """The TableFieldSchemas of a query's answer."""
    fields = []
    for column in schema:
        listed = pa.types.is_list(column.type)
        kind = _bigquery_type(column.type.value_type if listed else column.type)
        fields.append({"name": column.name, "type": kind, "mode": "REPEATED" if listed else "NULLABLE"})
    return fields


def _bigquery_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return "INTEGER"  # DuckDB sums integers as 128-bit ones
    if pa.types.is_null(kind):
        return "INTEGER"
    for name, ours in _ARROW.items():
        if kind.equals(ours):
            return name
    if pa.types.is_floating(kind):
        return "FLOAT"
    raise BigQueryError(400, f"Invalid type: the stand-in gives out no {kind}")


def rows_of(table: pa.Table, micros: bool) -> list[dict[str, Any]]:
    """`{"f": [{"v": …}, …]}` for each row. Timestamps as microseconds, or as seconds with a fraction."""
    columns = [_cells(column, micros) for column in table.columns]
    return [{"f": list(cells)} for cells in zip(*columns, strict=True)]


def _cells(column: pa.ChunkedArray, micros: bool) -> list[Any]:
    kind = column.type
    if pa.types.is_list(kind):
        return [{"v": [{"v": _text(v, micros)} for v in one or ()]} for one in column.to_pylist()]
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        values = column.cast(pa.int64()).to_pylist()
        if micros:
            return [{"v": None if v is None else str(v)} for v in values]
        return [{"v": None if v is None else f"{v // 1_000_000}.{v % 1_000_000:06d}"} for v in values]
    return [{"v": _text(value, micros)} for value in column.to_pylist()]


def _text(value: Any, micros: bool) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime) and value.tzinfo is not None:
        return str((value - _EPOCH) // timedelta(microseconds=1))
    if isinstance(value, Decimal):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def from_json(value: Any, field: Field) -> Any:
    """A cell of insertAll, of a line of JSON, or of a query parameter. Raises ValueError."""
    if field.get("mode") == "REPEATED":
        if not isinstance(value, list):
            raise ValueError(f"Array specified for non-repeated field: {field['name']}" if value else "not an array")
        return [_one(v, legacy(field["type"])) for v in value]
    return None if value is None else _one(value, legacy(field["type"]))


def _one(value: Any, kind: str) -> Any:
    if value is None:
        raise ValueError("Only optional fields can be set to NULL")
    if isinstance(value, dict | list) and kind != "JSON":
        raise ValueError("This field is not a record.")
    if kind == "INTEGER":
        return int(value)
    if kind == "FLOAT":
        return float(value)
    if kind == "BOOLEAN":
        if str(value).lower() not in ("true", "false"):
            raise ValueError(f"Cannot convert value to boolean (bad value): {value}")
        return str(value).lower() == "true"
    if kind == "TIMESTAMP":
        return _timestamp(value)
    if kind == "JSON":
        return value if isinstance(value, str) else json.dumps(value)
    return str(value)


def _timestamp(value: Any) -> datetime:
    if isinstance(value, int | float):
        return _EPOCH + timedelta(microseconds=round(value * 1_000_000))
    text = str(value)
    if text.endswith(" UTC"):
        text = text.removesuffix(" UTC") + "+00:00"
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).astimezone(UTC)
