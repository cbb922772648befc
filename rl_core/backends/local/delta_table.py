"""One Delta Lake table of the local event store: created when first written, kept small in files, read through Arrow.

A killed process leaves a commit whole or undone. Delta doesn't flush to disk: after a power cut the last seconds come
again from the message bus, which does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from rl_core.backends.conform import conform
from rl_core.errors import StoreError

if TYPE_CHECKING:
    from deltalake import DeltaTable as Handle
    from pyarrow.dataset import Dataset

_CONFIGURATION = {
    "delta.appendOnly": "true",
    "delta.checkpointInterval": "50",  # opening reads at most this many commits
    "delta.logRetentionDuration": "interval 1 days",
}
_COMPACT_EVERY = 64  # commits: an append costs 0.3 ms for each file of the table (measured)
_SMALL_FILE = 16 * 1024 * 1024
_KEEP_REMOVED_FILES_HOURS = 1  # a reader that opened the table before a compaction ends within this time


class DeltaTable:
    """Rows of `schema` under `path`. Safe to share between threads; not across a fork."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._lock = threading.Lock()
        self._opened: Handle | None = None

    def version_of(self, application: str) -> int:
        """The number that `append` last wrote for this application, 0 if none."""
        with self._lock, self._explained():
            table = self._current()
            return (table.transaction_version(application) or 0) if table else 0

    def append(self, rows: pa.Table, application: str | None = None, version: int = 0) -> None:
        """One atomic commit. Call under a lock that other processes respect.

        Raises:
            SchemaError: the rows don't have this table's columns.
            StoreError: the disk or the table refuses.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake

        rows = conform(rows, self._schema)
        transactions = [Transaction(application, version)] if application else []
        with self._lock, self._explained():
            table = self._current() or self._create()
            same = pa.schema(table.schema().to_arrow()).names == self._schema.names
            write_deltalake(
                table,
                rows,
                mode="append",
                schema_mode=None if same else "merge",
                commit_properties=CommitProperties(app_transactions=transactions),
            )
            if table.version() % _COMPACT_EVERY == 0:
                table.optimize.compact(target_size=_SMALL_FILE)
                table.vacuum(_KEEP_REMOVED_FILES_HOURS, dry_run=False, enforce_retention_duration=False)

    def dataset(self, files: str | None = None) -> Dataset:
        """The rows of the latest version.

        Args:
            files: SQL over the columns; files that can't hold such a row are left out, the others come whole.
        """
        from pyarrow import dataset

        with self._lock, self._explained():
            table = self._current()
            uris = table.file_uris(file_pruning_predicate=files) if table else []
            paths = [str(self._path / uri.rsplit("/", 1)[1]) for uri in uris]  # the URIs are percent-encoded
            return dataset.dataset(paths, schema=self._schema, format="parquet")

    def _current(self) -> Handle | None:
        from deltalake import DeltaTable as Open

        if self._opened is not None:
            commit = self._path / "_delta_log" / f"{self._opened.version():020d}.json"
            if commit.exists():
                self._opened.update_incremental()
                return self._opened
            self._opened = None  # cleaned up since, or the folder was made anew: open it again
        if Open.is_deltatable(str(self._path)):
            self._opened = self._ours(Open(self._path))
        return self._opened

    def _create(self) -> Handle:
        from deltalake import DeltaTable as Open

        self._path.mkdir(parents=True, exist_ok=True)
        self._opened = Open.create(self._path, self._schema, configuration=_CONFIGURATION)
        return self._opened

    def _ours(self, table: Handle) -> Handle:
        found = pa.schema(table.schema().to_arrow())
        for field in self._schema:
            at = found.get_field_index(field.name)
            if at < 0 and not field.nullable:
                raise StoreError(
                    f"{self._path} is a Delta table without column {field.name!r}; it is not an event store"
                )
            if at >= 0 and not found.field(at).type.equals(field.type):
                raise StoreError(
                    f"{self._path}: column {field.name!r} is {found.field(at).type}, expected {field.type}"
                )
        return table

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise StoreError(f"{self._path}: {' '.join(str(error).split())}") from error
