"""Opens a Delta table, makes it, or brings an older one's columns up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from rl_core.backends.local.store.delta import sync as delta_sync
from rl_core.errors import StoreError
from rl_core.waiting import tries

if TYPE_CHECKING:
    from deltalake import DeltaTable as Handle

_CONFIGURATION = {
    "delta.logRetentionDuration": "interval 10 minutes",  # every append lists the commits that are kept
    "delta.deletedFileRetentionDuration": "interval 1 hours",
}
_TRIES = 3


def opened(path: Path, schema: pa.Schema) -> Handle | None:
    """Open the table; None where there is none. Raises StoreError for a table of other columns."""
    from deltalake import DeltaTable as Open
    from deltalake.exceptions import DeltaError

    for left in tries(_TRIES, 0.01):
        try:
            return _ours(Open(path), path, schema) if Open.is_deltatable(str(path)) else None
        except (DeltaError, OSError):  # a writer takes old commits away just now
            if not left:
                raise
    raise AssertionError("unreachable")


def created(path: Path, schema: pa.Schema) -> Handle:
    """Make the table; on disk when this returns."""
    from deltalake import DeltaTable as Open

    path.mkdir(parents=True, exist_ok=True)
    table = Open.create(path, schema, configuration=_CONFIGURATION)
    delta_sync.flush(path, -1, 0)
    delta_sync.note(path, 0)
    return table


def widen(table: Handle, schema: pa.Schema) -> None:
    """Add the schema's columns that the table lacks, null in its rows, and let those be null that may be now."""
    from deltalake import Schema

    known = {field.name: field for field in pa.schema(table.schema().to_arrow())}
    if lacking := [field for field in schema if field.name not in known]:
        table.alter.add_columns(Schema.from_arrow(pa.schema(lacking)).fields)
    for field in schema:
        if field.nullable and field.name in known and not known[field.name].nullable:
            table.alter.drop_column_not_null(field.name)


def _ours(table: Handle, path: Path, schema: pa.Schema) -> Handle:
    found = pa.schema(table.schema().to_arrow())
    for field in schema:
        at = found.get_field_index(field.name)
        if at < 0 and not field.nullable:
            raise StoreError(f"{path} is a Delta table without column {field.name!r}; it is not an event store")
        if at >= 0 and not found.field(at).type.equals(field.type):
            raise StoreError(f"{path}: column {field.name!r} is {found.field(at).type}, expected {field.type}")
    return table
