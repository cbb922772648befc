"""Datasets and tables: their resources, and their rows in one DuckDB file."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from stand_ins.bigquery import values
from stand_ins.bigquery.errors import BigQueryError, not_found

Resource = dict[str, Any]


class Warehouse:
    """Thread-safe; each job works on a cursor of its own."""

    def __init__(self, folder: Path, project: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.project = project
        self._lock = threading.RLock()
        self.buffer_s = 0.0
        self.streamed_at: dict[tuple[str, str], float] = {}
        self._database = duckdb.connect(str(folder / "bigquery.duckdb"), config={"threads": 2})
        self._database.execute("SET GLOBAL TimeZone = 'UTC'")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS main.resources (dataset VARCHAR, name VARCHAR, resource VARCHAR)"
        )
        self._known: dict[tuple[str, str], Resource] = {
            (dataset, name): json.loads(text)
            for dataset, name, text in self._database.execute("SELECT * FROM main.resources").fetchall()
        }

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = self._database.cursor()
        try:
            cursor.execute("SET TimeZone = 'UTC'")
            yield cursor
        finally:
            cursor.close()

    def dataset(self, dataset: str, location: str | None = None) -> Resource:
        """Raises BigQueryError where there is none, or not in this location."""
        found = self._known.get((dataset, ""))
        if found is None:
            not_found("Dataset", f"{self.project}:{dataset}")
        if location is not None and location.lower() != found["location"].lower():
            not_found("Dataset", f"{self.project}:{dataset}", f" was not found in location {location}")
        return found

    def table(self, dataset: str, table: str) -> Resource:
        self.dataset(dataset)
        found = self._known.get((dataset, table))
        if found is None:
            where = f" was not found in location {self._known[dataset, '']['location']}"
            not_found("Table", f"{self.project}:{dataset}.{table}", where)
        return found

    def tables(self, dataset: str) -> list[Resource]:
        self.dataset(dataset)
        return [found for (owner, name), found in sorted(self._known.items()) if owner == dataset and name]

    def datasets(self) -> list[Resource]:
        return [found for (_, name), found in sorted(self._known.items()) if not name]

    def make_dataset(self, body: Resource) -> Resource:
        name = body["datasetReference"]["datasetId"]
        with self._lock:
            if (name, "") in self._known:
                raise BigQueryError(409, f"Already Exists: Dataset {self.project}:{name}")
            resource = {"location": "US", **body, "id": f"{self.project}:{name}", "kind": "bigquery#dataset"}
            self._change(name, "", resource, f'CREATE SCHEMA "{name}"')
        return resource

    def make_table(self, dataset: str, body: Resource) -> Resource:
        name = body["tableReference"]["tableId"]
        fields = body.get("schema", {}).get("fields", [])
        _check_layout(body, fields)
        with self._lock:
            owner = self.dataset(dataset)
            if (dataset, name) in self._known:
                raise BigQueryError(409, f"Already Exists: Table {self.project}:{dataset}.{name}")
            columns = ", ".join(_column(field) for field in fields)
            resource = {
                **body,
                "id": f"{self.project}:{dataset}.{name}",
                "kind": "bigquery#table",
                "type": "TABLE",
                "location": owner["location"],
                "creationTime": str(time.time_ns() // 1_000_000),
            }
            self._change(dataset, name, resource, f'CREATE TABLE "{dataset}"."{name}" ({columns})')
        return resource

    def patch(self, dataset: str, name: str, body: Resource) -> Resource:
        with self._lock:
            found = self.table(dataset, name) if name else self.dataset(dataset)
            old = {field["name"]: field for field in found.get("schema", {}).get("fields", [])}
            new = body.get("schema", {}).get("fields", [])
            misfit = f"Provided Schema does not match Table {self.project}:{dataset}.{name}."
            if new and {field["name"] for field in new} < old.keys():
                raise BigQueryError(400, misfit)
            changes = [change for field in new for change in _altered(old.get(field["name"]), field, misfit)]
            resource = {**found, **body}
            self._change(dataset, name, resource, *(f'ALTER TABLE "{dataset}"."{name}" {one}' for one in changes))
        return resource

    def drop(self, dataset: str, name: str) -> None:
        with self._lock:
            self.table(dataset, name)
            self._change(dataset, name, None, f'DROP TABLE "{dataset}"."{name}"')

    def drop_dataset(self, dataset: str, contents: bool) -> None:
        with self._lock:
            inside = self.tables(dataset)
            if inside and not contents:
                raise BigQueryError(400, f"Dataset {self.project}:{dataset} is still in use", "resourceInUse")
            for table in inside:
                self.drop(dataset, table["tableReference"]["tableId"])
            self._change(dataset, "", None, f'DROP SCHEMA "{dataset}"')

    def in_buffer(self, dataset: str, table: str) -> bool:
        """Whether rows were streamed into it so lately that they can't be changed: all of them, here."""
        streamed = self.streamed_at.get((dataset, table))
        return streamed is not None and time.monotonic() - streamed < self.buffer_s

    def append(self, dataset: str, table: str, rows: pa.Table, instead: bool = False) -> None:
        """Rows whose columns are the table's, in any order; columns that they lack are null."""
        with self.cursor() as cursor:
            cursor.register("incoming", rows)
            try:
                cursor.execute("BEGIN TRANSACTION")
                if instead:
                    cursor.execute(f'DELETE FROM "{dataset}"."{table}"')  # noqa: S608
                cursor.execute(f'INSERT INTO "{dataset}"."{table}" BY NAME SELECT * FROM incoming')  # noqa: S608
                cursor.execute("COMMIT")
            finally:
                cursor.unregister("incoming")

    def read(self, dataset: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        fields = self.table(dataset, table)["schema"]["fields"]
        wanted = ", ".join(f'"{f["name"]}"' for f in fields if columns is None or f["name"] in columns)
        with self.cursor() as cursor:
            return cursor.sql(f'SELECT {wanted} FROM "{dataset}"."{table}"').to_arrow_table()  # noqa: S608

    def _change(self, dataset: str, name: str, resource: Resource | None, *statements: str) -> None:
        with self.cursor() as cursor:
            cursor.execute("BEGIN TRANSACTION")
            for statement in statements:
                cursor.execute(statement)
            cursor.execute("DELETE FROM main.resources WHERE dataset = ? AND name = ?", [dataset, name])
            if resource is not None:
                cursor.execute("INSERT INTO main.resources VALUES (?, ?, ?)", [dataset, name, json.dumps(resource)])
            cursor.execute("COMMIT")
        if resource is None:
            del self._known[dataset, name]
        else:
            self._known[dataset, name] = resource


def _column(field: Mapping[str, Any]) -> str:
    required = " NOT NULL" if field.get("mode") == "REQUIRED" else ""
    return f'"{field["name"]}" {values.duckdb_type(field)}{required}'


def _altered(old: Mapping[str, Any] | None, new: Mapping[str, Any], misfit: str) -> Iterator[str]:
    """What makes of a column what a patch says of it: added and nullable, or relaxed from REQUIRED to NULLABLE."""
    name, mode = new["name"], new.get("mode") or "NULLABLE"
    if old is None:
        if mode == "REQUIRED":
            raise BigQueryError(400, f"{misfit} Cannot add required fields to an existing schema. (field: {name})")
        yield f"ADD COLUMN {_column(new)}"
        return
    kinds = [values.legacy(field["type"]) for field in (old, new)]
    if kinds[0] != kinds[1]:
        raise BigQueryError(400, f"{misfit} Field {name} has changed type from {kinds[0]} to {kinds[1]}")
    before = old.get("mode") or "NULLABLE"
    if (before, mode) == ("REQUIRED", "NULLABLE"):
        yield f'ALTER COLUMN "{name}" DROP NOT NULL'
    elif before != mode:
        raise BigQueryError(400, f"{misfit} Field {name} has changed mode from {before} to {mode}")


def _check_layout(body: Resource, fields: Sequence[Mapping[str, Any]]) -> None:
    """Partitioning and clustering must name columns that can carry them."""
    types = {field["name"]: values.legacy(field["type"]) for field in fields}
    by_time, by_range = body.get("timePartitioning"), body.get("rangePartitioning")
    if by_time and by_range:
        raise BigQueryError(400, "Only one of time partitioning and range partitioning can be specified")
    if by_time and by_time.get("field") and types.get(by_time["field"]) not in ("TIMESTAMP", "DATE", "DATETIME"):
        raise BigQueryError(400, f"The field specified for time partitioning can't be {by_time['field']}")
    if by_range:
        span = {name: int(by_range["range"][name]) for name in ("start", "end", "interval")}
        if types.get(by_range["field"]) != "INTEGER":
            raise BigQueryError(400, f"The field specified for range partitioning can't be {by_range['field']}")
        if (span["end"] - span["start"]) / span["interval"] > 10_000:
            raise BigQueryError(400, "Too many partitions: range partitioning makes at most 10000")
    clustered = body.get("clustering", {}).get("fields", [])
    if len(clustered) > 4 or any(name not in types for name in clustered):
        raise BigQueryError(400, f"Invalid clustering: {', '.join(clustered)}")
