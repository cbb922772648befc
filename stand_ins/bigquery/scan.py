"""How much of a table a statement reads, as BigQuery bills it: whole columns of the partitions its WHERE leaves.

Sizes: https://cloud.google.com/bigquery/docs/reference/standard-sql/data-types#data_type_sizes. What clustering spares
is not counted, so the figures are upper bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
from sqlglot import exp

from stand_ins.bigquery import values
from stand_ins.bigquery.warehouse import Warehouse

_FLIPPED = {exp.GT: exp.LT, exp.GTE: exp.LTE, exp.LT: exp.GT, exp.LTE: exp.GTE, exp.EQ: exp.EQ}
_SIGN = {exp.GT: ">=", exp.GTE: ">=", exp.LT: "<=", exp.LTE: "<=", exp.EQ: "="}  # of whole partitions
_LEAST_BILLED = 10 * 1024 * 1024  # for each table of a query


def bytes_read(
    parsed: exp.Expression, warehouse: Warehouse, cursor: duckdb.DuckDBPyConnection, used: Mapping[str, Any]
) -> dict[str, int]:
    """By `dataset.table`, of a statement that `sql.resolve` went through."""
    read: dict[str, int] = {}
    target = parsed.this if isinstance(parsed, exp.Insert) else None
    for table in parsed.find_all(exp.Table):
        if not table.db or (target is not None and (table is target or table.parent is target)):
            continue
        resource = warehouse.table(table.db, table.name)
        wanted = [f for f in resource["schema"]["fields"] if f["name"] in _columns(parsed, table, resource)]
        size = " + ".join(_size(field) for field in wanted) or "0"
        where = " AND ".join(_partitions(table, resource)) or "TRUE"
        sql = f'SELECT coalesce(sum({size}), 0)::BIGINT FROM "{table.db}"."{table.name}" WHERE {where}'  # noqa: S608
        given = {name: value for name, value in used.items() if f"${name}" in where}
        ((count,),) = cursor.execute(sql, given).fetchall()
        place = f"{table.db}.{table.name}"
        read[place] = max(read.get(place, 0), int(count))
    return read


def billed(read: Mapping[str, int]) -> int:
    return sum(max(_LEAST_BILLED, -(-size // 1_048_576) * 1_048_576) for size in read.values())


def _columns(parsed: exp.Expression, table: exp.Table, resource: Mapping[str, Any]) -> set[str]:
    """Those that the statement names, whichever table it means by them; all of them behind a `*`."""
    everything = {field["name"] for field in resource["schema"]["fields"]}
    select = table.find_ancestor(exp.Select)
    for star in select.find_all(exp.Star) if select is not None else ():
        counts = isinstance(star.parent, exp.Count)
        if star.find_ancestor(exp.Select) is select and not counts and _of(star, table):
            return everything - {column.name for column in star.args.get("except_") or star.args.get("except") or ()}
    named = {column.name for column in parsed.find_all(exp.Column)}
    joined = {name.name for join in parsed.find_all(exp.Join) for name in join.args.get("using") or ()}
    return everything & (named | joined)


def _of(star: exp.Star, table: exp.Table) -> bool:
    owner = star.parent.table if isinstance(star.parent, exp.Column) else ""
    return owner in ("", table.alias_or_name)


def _size(field: Mapping[str, Any]) -> str:
    name, kind = f'"{field["name"]}"', values.legacy(field["type"])
    one = f"2 + strlen({name})" if kind in ("STRING", "JSON") else "1" if kind == "BOOLEAN" else "8"
    if field.get("mode") == "REPEATED":
        texts = kind in ("STRING", "JSON")
        one = f"2 * len({name}) + strlen(array_to_string({name}, ''))" if texts else f"({one}) * len({name})"
    return f"(CASE WHEN {name} IS NULL THEN 0 ELSE {one} END)"


def _partitions(table: exp.Table, resource: Mapping[str, Any]) -> Iterator[str]:
    """Conditions on whole partitions, out of the constants that the WHERE compares the partitioning column with."""
    by_time, by_range = resource.get("timePartitioning"), resource.get("rangePartitioning")
    column = (by_time or by_range or {}).get("field")
    select = table.find_ancestor(exp.Select, exp.Update, exp.Delete)
    where = select.args.get("where") if select is not None else None
    if column is None or where is None:
        return
    for condition in where.this.flatten() if isinstance(where.this, exp.And) else [where.this]:
        for sign, bound in _bounds(condition, column, table.alias_or_name):
            if by_range:
                width = int(by_range["range"]["interval"])
                yield f'"{column}" // {width} {sign} {bound} // {width}'
            else:
                yield f"date_trunc('day', \"{column}\") {sign} date_trunc('day', {bound})"


def _bounds(condition: exp.Expression, column: str, table: str) -> Iterator[tuple[str, str]]:
    if isinstance(condition, exp.Between) and _is(condition.this, column, table):
        yield from ((sign, condition.args[side].sql("duckdb")) for side, sign in (("low", ">="), ("high", "<=")))
    for kind, flipped in _FLIPPED.items():
        if type(condition) is not kind:
            continue
        if _is(condition.left, column, table) and not condition.right.find(exp.Column, exp.Query):
            yield _SIGN[kind], condition.right.sql("duckdb")
        elif _is(condition.right, column, table) and not condition.left.find(exp.Column, exp.Query):
            yield _SIGN[flipped], condition.left.sql("duckdb")


def _is(side: exp.Expression, column: str, table: str) -> bool:
    return isinstance(side, exp.Column) and side.name == column and side.table in ("", table)
