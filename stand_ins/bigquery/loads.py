"""Load jobs: a Parquet file, or lines of JSON, into a table; and the rows of insertAll."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stand_ins.bigquery import values
from stand_ins.bigquery.errors import BigQueryError
from stand_ins.bigquery.warehouse import Warehouse

_PARQUET: dict[str, tuple[str, ...]] = {
    "string": ("STRING",),
    "large_string": ("STRING",),
    "int32": ("INTEGER",),
    "int64": ("INTEGER",),
    "float": ("FLOAT",),
    "double": ("FLOAT",),
    "bool": ("BOOLEAN",),
    "timestamp[us, tz=UTC]": ("TIMESTAMP",),
}


def load(warehouse: Warehouse, config: Mapping[str, Any], content: bytes) -> int:
    """Returns how many rows came in. Raises BigQueryError: none did."""
    target = config["destinationTable"]
    dataset, table = target["datasetId"], target["tableId"]
    fields = warehouse.table(dataset, table)["schema"]["fields"]
    disposition = config.get("writeDisposition", "WRITE_APPEND")
    if disposition not in ("WRITE_APPEND", "WRITE_TRUNCATE"):
        raise BigQueryError(400, f"the stand-in has no writeDisposition {disposition}")
    form = config.get("sourceFormat", "CSV")
    if form == "PARQUET":
        inferred = config.get("parquetOptions", {}).get("enableListInference", False)
        rows = _parquet(content, fields, inferred, f"{warehouse.project}:{dataset}.{table}")
    elif form == "NEWLINE_DELIMITED_JSON":
        rows = _lines(content, fields)
    else:
        raise BigQueryError(400, f"the stand-in loads no {form}")
    warehouse.append(dataset, table, rows, instead=disposition == "WRITE_TRUNCATE")
    return int(rows.num_rows)


def _parquet(content: bytes, fields: Sequence[values.Field], inferred: bool, table: str) -> pa.Table:
    try:
        rows = pq.read_table(io.BytesIO(content))
    except pa.ArrowException as error:
        raise BigQueryError(400, f"Error while reading data, error message: {error}") from error
    known = {field["name"]: field for field in fields}
    for column in rows.schema:
        place = f"Provided Schema does not match Table {table}. Field {column.name}"
        listed = pa.types.is_list(column.type)
        if column.name not in known:
            raise BigQueryError(400, f"{place} is not in the table")
        field = known[column.name]
        if listed and not inferred:
            raise BigQueryError(400, f"{place} has changed type to RECORD (parquetOptions.enableListInference is off)")
        if listed != (field.get("mode") == "REPEATED"):
            raise BigQueryError(400, f"{place} has changed mode")
        if column.nullable and field.get("mode") == "REQUIRED":
            raise BigQueryError(400, f"{place} has changed mode from REQUIRED to NULLABLE")
        kind = str(column.type.value_type if listed else column.type)
        if values.legacy(field["type"]) not in _PARQUET.get(kind, ()):
            raise BigQueryError(400, f"{place} has changed type from {field['type']} to {kind}")
    lacking = [n for n, field in known.items() if field.get("mode") == "REQUIRED" and n not in rows.column_names]
    if lacking:
        raise BigQueryError(400, f"Provided Schema does not match Table {table}. Field {lacking[0]} is missing")
    return rows.cast(pa.schema([(name, values.arrow_type(known[name])) for name in rows.column_names]))


def _lines(content: bytes, fields: Sequence[values.Field]) -> pa.Table:
    rows = [json.loads(line) for line in content.splitlines() if line.strip()]
    for number, row in enumerate(rows):
        if faults := faults_of(row, fields):
            raise BigQueryError(400, f"Error while reading data, row {number}: {faults[0]['message']}")
    return table_of(rows, fields)


def faults_of(row: Any, fields: Sequence[values.Field]) -> list[dict[str, str]]:
    """What is wrong with a row of JSON, in the shape of insertAll's `insertErrors`."""
    if not isinstance(row, dict):
        return [{"reason": "invalid", "location": "", "message": "a row must be an object"}]
    known = {field["name"]: field for field in fields}
    found = [(name, f"no such field: {name}.") for name in row if name not in known]
    for name, field in known.items():
        value = row.get(name)
        if value is None:
            if field.get("mode") == "REQUIRED":
                found.append((name, f"Missing required field: {name}."))
            continue
        try:
            values.from_json(value, field)
        except (ValueError, TypeError, OverflowError) as error:
            found.append((name, str(error)))
    return [{"reason": "invalid", "location": name, "debugInfo": "", "message": said} for name, said in found]


def table_of(rows: Sequence[Mapping[str, Any]], fields: Sequence[values.Field]) -> pa.Table:
    """Rows without fault."""
    read = [
        {f["name"]: values.from_json(row[f["name"]], f) for f in fields if row.get(f["name"]) is not None}
        for row in rows
    ]
    for row in read:
        row.update({f["name"]: [] for f in fields if f.get("mode") == "REPEATED" and f["name"] not in row})
    return pa.Table.from_pylist(read, schema=values.arrow_schema(fields))
