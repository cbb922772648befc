"""Checks rows against a table's schema, the same way for every event store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.backends.contracts.bus import BUS_PREFIX
from rl_core.backends.contracts.store import Window
from rl_core.errors import SchemaError, StoreError
from rl_core.schema import COMPLETION_SCHEMA, INTERACTION_SCHEMA


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with the schema's column order and nullability. Raises SchemaError naming the column."""
    missing = [name for name in schema.names if name not in rows.column_names and not schema.field(name).nullable]
    foreign = [name for name in rows.column_names if name not in schema.names]
    if missing or foreign:
        raise SchemaError(f"rows lack {_listed(missing)} and bring {_listed(foreign)}; see rl_core/schema.py")
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows.column(field.name)
        if not column.type.equals(field.type):
            raise SchemaError(f"column {field.name!r} is {column.type}; the schema says {field.type}")
        if column.null_count and not field.nullable:
            raise SchemaError(f"column {field.name!r} holds {column.null_count} nulls; it must not")
        columns.append(column)
    return pa.table(columns, schema=schema)


def completion(producer: str, decisions: int) -> pa.Table:
    """Return the row that says that a job's decisions have all their rewards. Raises StoreError for a bus."""
    if producer.startswith(BUS_PREFIX):
        raise StoreError(f"{producer!r} is a bus, which never ends; only a job can be complete")
    row = {"producer": producer, "decisions": decisions, "completed_at": datetime.now(UTC)}
    return pa.Table.from_pylist([row], schema=COMPLETION_SCHEMA)


def span(table: str, rows: pa.Table) -> tuple[str, int, int]:
    """Return producer, first and last offset of rows that one producer stamped in sequence.

    Raises:
        SchemaError: the rows are of several producers.
        StoreError: the offsets don't ascend by one.
    """
    producers = pc.unique(rows["producer"]).to_pylist()
    if len(producers) != 1:
        raise SchemaError(
            f"{table}: rows of {len(producers)} producers ({', '.join(producers[:3])}); append one at a time"
        )
    offsets = rows["offset"].to_numpy()
    if offsets[0] < 1 or (offsets[1:] - offsets[:-1] != 1).any():
        raise StoreError(
            f"{table} of {producers[0]!r}: offsets must ascend by one from 1 or more; sort them, close the gap"
        )
    return producers[0], int(offsets[0]), int(offsets[-1])


def gap(table: str, producer: str, known: int, first: int) -> StoreError:
    """Make the error that refuses an append beyond the last offset."""
    return StoreError(
        f"{table} of {producer!r}: offset {known} is followed by {first}; append {known + 1}..{first - 1} first"
    )


def not_the_next(head: int, first: int, last: int) -> StoreError:
    """Make the error that refuses interactions that don't continue head."""
    return StoreError(f"interactions end at seq {head}; got seq {first}..{last}: read head() and join again")


def window_of(window: Window, head: int, columns: Sequence[str] | None) -> list[str]:
    """Return the columns to read of interactions. Raises StoreError where the window or a column is not there."""
    low, high = window
    if not 0 <= low <= high:
        raise StoreError(f"window ({low}, {high}] is none; give 0 <= seq_low <= seq_high")
    if high > head:
        raise StoreError(f"window ({low}, {high}] reaches past head {head}; wait for more interactions")
    wanted = list(columns) if columns is not None else INTERACTION_SCHEMA.names
    if unknown := set(wanted) - set(INTERACTION_SCHEMA.names):
        raise StoreError(f"interactions have no column {min(unknown)!r}; see rl_core/schema.py")
    return wanted


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
