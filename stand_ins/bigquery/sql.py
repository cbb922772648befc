"""BigQuery's SQL as DuckDB's: one statement, its names resolved, its parameters typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from stand_ins.bigquery import values
from stand_ins.bigquery.errors import invalid_query
from stand_ins.bigquery.warehouse import Warehouse

_TYPES: dict[type[exp.Expression], str] = {
    exp.Select: "SELECT",
    exp.Union: "SELECT",
    exp.Insert: "INSERT",
    exp.Update: "UPDATE",
    exp.Delete: "DELETE",
    exp.Merge: "MERGE",
    exp.Create: "CREATE_TABLE_AS_SELECT",
    exp.Drop: "DROP_TABLE",
    exp.Transaction: "BEGIN_TRANSACTION",
    exp.Commit: "COMMIT_TRANSACTION",
    exp.Rollback: "ROLLBACK_TRANSACTION",
    exp.Declare: "DECLARE",
    exp.Set: "ASSIGNMENT",
}


# https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#reserved_keywords
_RESERVED_WORDS = """
ALL AND ANY ARRAY AS ASC ASSERT_ROWS_MODIFIED AT BETWEEN BY CASE CAST COLLATE CONTAINS CREATE CROSS CUBE CURRENT
DEFAULT DEFINE DESC DISTINCT ELSE END ENUM ESCAPE EXCEPT EXCLUDE EXISTS EXTRACT FALSE FETCH FOLLOWING FOR FROM
FULL GROUP GROUPING GROUPS HASH HAVING IF IGNORE IN INNER INTERSECT INTERVAL INTO IS JOIN LATERAL LEFT LIKE
LIMIT LOOKUP MERGE NATURAL NEW NO NOT NULL NULLS OF ON OR ORDER OUTER OVER PARTITION PRECEDING PROTO QUALIFY
RANGE RECURSIVE RESPECT RIGHT ROLLUP ROWS SELECT SET SOME STRUCT TABLESAMPLE THEN TO TREAT TRUE UNBOUNDED UNION
UNNEST USING WHEN WHERE WINDOW WITH WITHIN
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())


@dataclass(frozen=True)
class Typed:
    """A parameter, or a variable that the script declared. `field` is a TableFieldSchema without a name."""

    value: Any
    field: Mapping[str, Any]
    declared: bool = False


def statements(text: str) -> list[str]:
    """The script's statements, without their semicolons."""
    try:
        tokens = sqlglot.tokenize(text, read="bigquery")
    except SqlglotError as error:
        invalid_query(f"Syntax error: {' '.join(str(error).split())}")
    cuts = [token.start for token in tokens if token.token_type == TokenType.SEMICOLON]
    pieces = [text[low:high] for low, high in zip([0, *(c + 1 for c in cuts)], [*cuts, len(text)], strict=True)]
    with_words = [piece for piece in pieces if sqlglot.tokenize(piece, read="bigquery")]
    return [piece.strip() for piece in with_words]


def parse(statement: str) -> exp.Expression:
    """A tree of one's own. Raises BigQueryError where it is no statement that BigQuery (or this stand-in) takes."""
    return _parsed(statement).copy()


@lru_cache(maxsize=256)
def _parsed(statement: str) -> exp.Expression:
    try:
        parsed = sqlglot.parse_one(statement, read="bigquery")
    except SqlglotError as error:
        said = " ".join(str(error).replace("\x1b[4m", "").replace("\x1b[0m", "").split())
        invalid_query(f"Syntax error: {said}")
    if type(parsed) not in _TYPES:
        invalid_query(f"Syntax error: Unexpected keyword {statement.split()[0].upper()} at [1:1]")
    for name in parsed.find_all(exp.Identifier):
        after_dot = isinstance(name.parent, exp.Column) and name.arg_key == "this" and name.parent.table
        if not name.args.get("quoted") and not after_dot and name.name.upper() in _RESERVED:
            invalid_query(f"Syntax error: Unexpected keyword {name.name.upper()}")
    return parsed


def statement_type(parsed: exp.Expression) -> str:
    return _TYPES[type(parsed)]


def resolve(
    parsed: exp.Expression,
    warehouse: Warehouse,
    default: tuple[str, str] | None,
    location: str,
    temporary: Iterable[str],
    known: Mapping[str, Typed],
) -> dict[str, Any]:
    """Change the tree in place so that DuckDB can run it; returns the values of the parameters that it uses."""
    ours = set(temporary)
    common = {cte.alias for cte in parsed.find_all(exp.CTE)}
    for table in list(parsed.find_all(exp.Table)):
        if not isinstance(table.this, exp.Identifier):
            continue  # UNNEST and the like
        if not table.db and (table.name in ours or table.name in common):
            continue
        project, dataset = (table.catalog or warehouse.project, table.db)
        if not dataset:
            if default is None:
                invalid_query(f'Table "{table.name}" must be qualified with a dataset (e.g. dataset.table).')
            project, dataset = default
        if project != warehouse.project:
            invalid_query(f"Access Denied: Project {project}: User does not have bigquery.tables.getData permission")
        warehouse.dataset(dataset, location)
        warehouse.table(dataset, table.name)
        table.set("catalog", None)
        table.set("db", exp.to_identifier(dataset, quoted=True))
    used = {}
    for node in list(parsed.find_all(exp.Parameter, exp.Column)):
        declared = node.name in known and known[node.name].declared
        if isinstance(node, exp.Column) and (node.table or not declared):
            continue
        if isinstance(node, exp.Parameter) and (node.name not in known or declared):
            invalid_query(f"Query parameter '{node.name}' not found at [1:1]")
        one = known[node.name]
        used[node.name] = one.value
        kind = exp.DataType.build(values.duckdb_type(one.field), dialect="duckdb")
        typed = exp.Cast(this=exp.Parameter(this=exp.Var(this=node.name)), to=kind)
        if node is parsed:
            return used
        node.replace(typed)
    return used


def for_duckdb(parsed: exp.Expression) -> str:
    counted = parsed.transform(_counted)
    return str(counted.sql("duckdb", identify=True, comments=False))


def _counted(node: exp.Expression) -> exp.Expression:
    """BigQuery's COUNTIF of nothing is 0, DuckDB's is NULL."""
    return exp.Count(this=exp.If(this=node.this, true=exp.Literal.number(1))) if isinstance(node, exp.CountIf) else node
