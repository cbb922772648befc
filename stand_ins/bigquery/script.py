"""Runs a query job's text: one statement, or a script with variables, temporary tables and a transaction."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
from sqlglot import exp

from stand_ins.bigquery import scan, sql, values
from stand_ins.bigquery.errors import BigQueryError, invalid_query
from stand_ins.bigquery.sql import Typed
from stand_ins.bigquery.warehouse import Warehouse

_ASSERT = re.compile(r"ASSERT\s+(?P<condition>.*?)(?:\s+AS\s+'(?P<said>[^']*)')?", re.IGNORECASE | re.DOTALL)
_TRIES = 5  # of a statement outside a transaction: BigQuery repeats it by itself


@dataclass
class Outcome:
    """What a script did: the rows of its last SELECT, and what it read."""

    statement_type: str
    rows: pa.Table | None = None
    affected: int | None = None
    read: dict[str, int] = field(default_factory=dict)
    billed: int = 0
    children: int = 0


class Script:
    """One run."""

    def __init__(
        self,
        warehouse: Warehouse,
        text: str,
        parameters: Mapping[str, Typed],
        default: tuple[str, str] | None,
        location: str,
    ) -> None:
        self._warehouse = warehouse
        self._statements = sql.statements(text)
        self._known = dict(parameters)
        self._default = default
        self._location = location
        self._temporary: set[str] = set()
        self._inside = False
        self._changed: list[str] = []
        if not self._statements:
            invalid_query("Syntax error: Unexpected end of statement at [1:1]")

    def described(self) -> Outcome:
        """What `dryRun` answers: of a script, only that it is one."""
        if len(self._statements) > 1:
            return Outcome("SCRIPT")
        parsed = sql.parse(self._statements[0])
        with self._warehouse.cursor() as cursor:
            used = self._resolve(parsed)
            read = scan.bytes_read(parsed, self._warehouse, cursor, used)
            try:
                cursor.execute(f"EXPLAIN {sql.for_duckdb(parsed)}", used)
            except duckdb.Error as error:
                self._refuse(error)
        return Outcome(sql.statement_type(parsed), read=read)

    def run(self) -> Outcome:
        outcome = Outcome("SCRIPT" if len(self._statements) > 1 else "SELECT", children=len(self._statements))
        with self._warehouse.cursor() as cursor:
            try:
                for statement in self._statements:
                    self._execute(cursor, statement, outcome)
            except duckdb.Error as error:
                self._refuse(error)
            finally:
                if self._inside:  # a script that ends in its transaction rolls it back
                    cursor.execute("ROLLBACK")
        return outcome

    def _execute(self, cursor: duckdb.DuckDBPyConnection, statement: str, outcome: Outcome) -> None:
        if asserted := _ASSERT.fullmatch(statement):
            if self._value(cursor, asserted["condition"], outcome) is not True:
                invalid_query(asserted["said"] or "Assertion failed")
            return
        parsed = sql.parse(statement)
        if len(self._statements) == 1:
            outcome.statement_type = sql.statement_type(parsed)
        if isinstance(parsed, exp.Transaction):
            cursor.execute("BEGIN TRANSACTION")
            self._inside = True
        elif isinstance(parsed, exp.Commit | exp.Rollback):
            if not self._inside:
                invalid_query("There is no active transaction")
            cursor.execute("COMMIT" if isinstance(parsed, exp.Commit) else "ROLLBACK")
            self._inside = False
        elif isinstance(parsed, exp.Declare):
            self._declare(cursor, parsed, outcome)
        elif isinstance(parsed, exp.Set):
            self._set(cursor, parsed, outcome)
        else:
            self._run(cursor, parsed, outcome)

    def _declare(self, cursor: duckdb.DuckDBPyConnection, parsed: exp.Declare, outcome: Outcome) -> None:
        for item in parsed.expressions:
            kind = {"type": item.args["kind"].sql("bigquery")}
            default = item.args.get("default") or None
            value = self._value(cursor, default.sql("bigquery"), outcome) if default is not None else None
            names = item.this if isinstance(item.this, list) else [item.this]
            self._known.update({name.name: Typed(value, kind, declared=True) for name in names})

    def _set(self, cursor: duckdb.DuckDBPyConnection, parsed: exp.Set, outcome: Outcome) -> None:
        (assigned,) = parsed.expressions
        target, source = assigned.this.left, assigned.this.right
        if isinstance(target, exp.Tuple):
            select = source.unnest()
            select.set("kind", None)
            row = list(self._rows(cursor, select, outcome).to_pylist()[0].values())
            pairs = list(zip(target.expressions, row, strict=True))
        else:
            pairs = [(target, self._value(cursor, source.sql("bigquery"), outcome))]
        for name, value in pairs:
            if name.name not in self._known:
                invalid_query(f"Undeclared variable: {name.name}")
            self._known[name.name] = Typed(value, self._known[name.name].field, declared=True)

    def _value(self, cursor: duckdb.DuckDBPyConnection, expression: str, outcome: Outcome) -> Any:
        return self._rows(cursor, sql.parse(f"SELECT {expression}"), outcome).column(0)[0].as_py()

    def _rows(self, cursor: duckdb.DuckDBPyConnection, parsed: exp.Expression, outcome: Outcome) -> pa.Table:
        used = self._resolve(parsed)
        self._note(cursor, parsed, used, outcome)
        return cursor.sql(sql.for_duckdb(parsed), params=used).to_arrow_table()

    def _run(self, cursor: duckdb.DuckDBPyConnection, parsed: exp.Expression, outcome: Outcome) -> None:
        if isinstance(parsed, exp.Create):
            self._permit(parsed)
        if isinstance(parsed, exp.Query):
            outcome.rows = self._rows(cursor, parsed, outcome)
            return
        if isinstance(parsed, exp.Create):
            name = parsed.this.name
            self._temporary.add(name)
        used = self._resolve(parsed)
        self._note(cursor, parsed, used, outcome)
        if isinstance(parsed, exp.Update | exp.Delete | exp.Merge):
            self._changed.append(parsed.find(exp.Table).sql("bigquery"))
            if not isinstance(parsed, exp.Merge) and not parsed.args.get("where"):
                invalid_query(f"{type(parsed).__name__.upper()} must have a WHERE clause at [1:1]")
        for attempt in range(_TRIES):
            try:
                done = cursor.execute(sql.for_duckdb(parsed), used).fetchall()
                break
            except duckdb.TransactionException:
                if self._inside or attempt == _TRIES - 1:
                    raise
        outcome.affected = int(done[0][0]) if done and isinstance(done[0][0], int) else None
        if isinstance(parsed, exp.Update | exp.Delete) and outcome.affected:
            table = parsed.find(exp.Table)
            if self._warehouse.in_buffer(table.db, table.name):
                invalid_query(
                    f"{type(parsed).__name__.upper()} statement over table {self._warehouse.project}.{table.db}."
                    f"{table.name} would affect rows in the streaming buffer, which is not supported"
                )

    def _permit(self, parsed: exp.Create) -> None:
        temporary = any(isinstance(p, exp.TemporaryProperty) for p in parsed.find_all(exp.Property))
        if parsed.kind != "TABLE" or not temporary:
            invalid_query("the stand-in makes temporary tables only; tables are made by tables.insert")

    def _resolve(self, parsed: exp.Expression) -> dict[str, Any]:
        return sql.resolve(parsed, self._warehouse, self._default, self._location, self._temporary, self._known)

    def _note(
        self, cursor: duckdb.DuckDBPyConnection, parsed: exp.Expression, used: Mapping[str, Any], outcome: Outcome
    ) -> None:
        read = scan.bytes_read(parsed, self._warehouse, cursor, used)
        outcome.billed += scan.billed(read)
        for place, size in read.items():
            outcome.read[place] = outcome.read.get(place, 0) + size

    def _refuse(self, error: duckdb.Error) -> None:
        said = " ".join(str(error).split())
        if isinstance(error, duckdb.TransactionException):
            table = ", ".join(self._changed) or "a table"
            if not self._inside:
                raise BigQueryError(
                    400,
                    f"Could not serialize access to table {self._warehouse.project}:{table} due to concurrent update",
                    "invalidQuery",
                ) from error
            raise BigQueryError(
                400,
                f"Transaction is aborted due to concurrent update against table {self._warehouse.project}:{table}. "
                f"Transaction ID: {uuid.uuid4()}",
                "invalidQuery",
            ) from error
        if isinstance(error, duckdb.ConstraintException):
            raise BigQueryError(400, f"Required field cannot be null ({said})", "invalidQuery") from error
        raise BigQueryError(400, f"Invalid query: {said}", "invalidQuery") from error


def parameters_of(declared: list[dict[str, Any]]) -> dict[str, Typed]:
    """The named `queryParameters` of a request."""
    known = {}
    for one in declared:
        if "name" not in one:
            invalid_query("the stand-in takes named parameters only")
        kind, given = one["parameterType"], one.get("parameterValue", {})
        listed = kind["type"] == "ARRAY"
        field = {"name": one["name"], "type": kind["arrayType"]["type"] if listed else kind["type"]}
        if listed:
            field["mode"] = "REPEATED"
        raw = [v.get("value") for v in given.get("arrayValues", [])] if listed else given.get("value")
        try:
            known[one["name"]] = Typed(values.from_json(raw, field), field)
        except ValueError as error:
            invalid_query(f"Invalid value for parameter {one['name']}: {error}")
    return known
