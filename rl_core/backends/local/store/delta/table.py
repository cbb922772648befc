"""One Delta Lake table of the local event store: made when first written, kept in few files, read through Arrow.

A killed process leaves a commit whole or undone, and a power cut as well: see `sync.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rl_core.backends.conform import conform
from rl_core.backends.local.store.delta import open as delta_open
from rl_core.backends.local.store.delta import sync as delta_sync
from rl_core.backends.local.store.delta.compaction import mergeable
from rl_core.backends.local.store.delta.files import DataFile, files_of, unused, write
from rl_core.errors import StoreError
from rl_core.files import locked

if TYPE_CHECKING:
    from deltalake import DeltaTable as Handle
    from pyarrow.dataset import Dataset

_CHECKPOINT_EVERY = 50  # commits: opening reads at most this many
_TEND_EVERY = 64  # commits: many small files make every read slower
_KEEP_REMOVED = timedelta(hours=1)  # a reader that opened the table before a compaction ends within this time


class DeltaTable:
    """Reads and writes rows of `schema` under `path`. Safe to share between threads; not across a fork.

    Args:
        by_producer: files hold rows of one producer each.
    """

    def __init__(self, path: Path, schema: pa.Schema, by_producer: bool = False) -> None:
        self._path = path
        self._schema = schema
        self._by_producer = by_producer
        self._lock = threading.Lock()
        self._opened: Handle | None = None
        self._sound = False
        self._writer: int | None = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the turn to write, of one process and thread; wait for it. What changes the table is called within."""
        with locked(self._path.parent / ".locks" / f"{self._path.name}.lock", f"a write to {self._path.name}"):
            self._writer = threading.get_ident()
            try:
                yield
            finally:
                self._writer = None

    def version_of(self, application: str) -> int:
        """Return the number that `append` last wrote for this application, 0 if none."""
        with self._reading() as table:
            return (table.transaction_version(application) or 0) if table else 0

    def append(self, rows: pa.Table, application: str | None = None, version: int = 0) -> None:
        """Append rows in one atomic commit, on disk when this returns.

        Raises:
            SchemaError: the rows don't have this table's columns.
            StoreError: the disk or the table refuses.
        """
        rows = conform(rows, self._schema)
        with self._changing() as table:
            files = [write(self._path, rows)] if rows.num_rows else []
            self._commit(table, files, {application: version} if application else {})
            if table.version() % _TEND_EVERY == 0:
                self._tend(table)

    def replace(
        self,
        change: Callable[[pa.Table], pa.Table | None],
        keep: Callable[[DataFile], bool] = lambda file: True,
        application: str | None = None,
        version: int = 0,
    ) -> int:
        """Rewrite files, in one atomic commit for all of them; return by how many rows the table became shorter.

        Args:
            change: of a file's rows; None leaves the file as it is.
            keep: false for files that certainly stay as they are.
            application: as of `append`; written even where no file changes.
        """
        if not self._there():
            return 0
        with self._changing() as table:
            actions, removed, gone = [], [], 0
            for file in filter(keep, files_of(table)):
                rows = self._rows(table, [file])
                after = change(rows)
                if after is None:
                    continue
                removed.append(file)
                gone += rows.num_rows - after.num_rows
                if after.num_rows:
                    actions.append(write(self._path, after))
            if removed and table.metadata().configuration.get("delta.appendOnly") == "true":
                table.alter.set_table_properties({"delta.appendOnly": "false"})
            if removed or application:
                self._commit(table, actions, {application: version} if application else {}, removed)
        return gone

    def purge(self) -> None:
        """Delete all but the latest version: removed files, older commits, and what was moved aside."""
        import shutil

        if not self._there():
            return
        with self._changing() as table:
            self._checkpoint(table)
            log = delta_sync.log_of(self._path)
            latest = f"{table.version():020d}"
            for path in [*log.glob("*.json"), *log.glob("*.checkpoint.parquet")]:
                if path.name[:20] < latest:
                    path.unlink(missing_ok=True)
            for path in unused(self._path, files_of(table), timedelta(0)):
                path.unlink(missing_ok=True)
            for folder in chain.from_iterable(
                self._path.glob(f"{one}*") for one in (delta_sync.PARTIAL, delta_sync.OLDER)
            ):
                shutil.rmtree(folder)

    def _there(self) -> bool:
        return delta_sync.log_of(self._path).is_dir()

    def files(self) -> list[DataFile]:
        """Return the files of the latest version, in the order of seq, or of producer and offset."""
        with self._reading() as table:
            return files_of(table) if table else []

    def look(self, application: str) -> tuple[int, list[DataFile]]:
        """Return `version_of` and `files`, of the same version of the table."""
        with self._reading() as table:
            return (table.transaction_version(application) or 0, files_of(table)) if table else (0, [])

    def dataset(self, keep: Callable[[DataFile], bool] = lambda file: True) -> Dataset:
        """Open the rows of the latest version, but for the files that `keep` leaves out; the others come whole."""
        return self.open(list(filter(keep, self.files())))

    def open(self, files: Sequence[DataFile]) -> Dataset:
        """Open the rows of these files."""
        from pyarrow import dataset

        with self._explained():
            paths = [str(self._path / file.path) for file in files]
            return dataset.dataset(paths, schema=self._schema, format="parquet")

    @contextmanager
    def _reading(self) -> Iterator[Handle | None]:
        with self._explained():
            if not self._sound and not delta_sync.settled(self._path):
                if self._writer == threading.get_ident():
                    delta_sync.settle(self._path)
                else:
                    with self.writing():
                        delta_sync.settle(self._path)
            with self._lock:
                yield self._current()

    @contextmanager
    def _changing(self) -> Iterator[Handle]:
        """The table at its latest version; all that is committed within is on disk afterwards."""
        with self._reading() as found:
            table = found or self._create()
            before = table.version()
            if not delta_sync.settled(self._path):  # a writer was killed before it had flushed
                delta_sync.settle(self._path)
                self._opened = None
                table = self._current() or self._create()
                before = table.version()
            yield table
            if table.version() != before:
                delta_sync.flush(self._path, before, table.version())
                delta_sync.note(self._path, table.version())

    def _commit(
        self,
        table: Handle,
        actions: Sequence[Any],
        versions: Mapping[str, int],
        removed: Sequence[DataFile] = (),
        data_change: bool = True,
    ) -> None:
        from deltalake import CommitProperties, PostCommitHookProperties, Transaction
        from deltalake.transaction import RemoveAction

        delta_open.widen(table, self._schema)
        now = time.time_ns() // 1_000_000
        for file in removed:  # from now on it is kept for _KEEP_REMOVED
            with suppress(FileNotFoundError):
                (self._path / file.path).touch()
        removals = [RemoveAction(file.path, data_change, now, file.size, {}) for file in removed]
        table.create_write_transaction(
            [*actions, *removals],
            "append",
            table.schema(),
            commit_properties=CommitProperties(app_transactions=[Transaction(*one) for one in versions.items()]),
            post_commithook_properties=PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False),
        )
        table.update_incremental()
        if table.version() % _CHECKPOINT_EVERY == 0:
            self._checkpoint(table)

    def _checkpoint(self, table: Handle) -> None:
        """On disk before the commits that it repeats may go."""
        version = table.version()
        delta_sync.flush(self._path, version - 1, version)
        table.create_checkpoint()
        delta_sync.flush(self._path, version - 1, version)

    def _tend(self, table: Handle) -> None:
        for group in mergeable(files_of(table), self._by_producer):
            merged = write(self._path, self._rows(table, group), data_change=False)
            self._commit(table, [merged], {}, group, data_change=False)
        delta_sync.flush(self._path, table.version() - _TEND_EVERY, table.version())
        table.cleanup_metadata()
        for path in unused(self._path, files_of(table), _KEEP_REMOVED):
            path.unlink(missing_ok=True)

    def _rows(self, table: Handle, files: Sequence[DataFile]) -> pa.Table:
        """With all columns of the table, also those that this process doesn't know."""
        from pyarrow import dataset

        schema = pa.schema(table.schema().to_arrow())
        return dataset.dataset(
            [str(self._path / file.path) for file in files], schema=schema, format="parquet"
        ).to_table()

    def _current(self) -> Handle | None:
        if self._opened is not None:
            commit = delta_sync.log_of(self._path) / f"{self._opened.version():020d}.json"
            if commit.exists():
                self._opened.update_incremental()
                return self._opened
            self._opened = None  # cleaned up since, or the folder was made anew: open it again
        self._opened = delta_open.opened(self._path, self._schema)
        self._sound = self._sound or self._opened is not None
        return self._opened

    def _create(self) -> Handle:
        self._opened = delta_open.created(self._path, self._schema)
        return self._opened

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (DeltaError, OSError, pa.ArrowException) as error:
            raise StoreError(f"{self._path}: {' '.join(str(error).split())}") from error
