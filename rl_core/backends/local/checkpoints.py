"""Moves SQLite's write-ahead log into the file beside the publisher, which would else wait for the disk."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress

_AFTER_BYTES = 4 << 20  # as SQLite's own default of 1,000 pages
_PAGES_A_COMMIT = 4  # a leaf of the table, one of its index, the state, and what splits
_PAGE = 4096
_BACKSTOP_PAGES = 16_000


class Checkpoints:
    """`committed` is called by the writer's thread; the connection `own` belongs to the thread that runs beside it."""

    def __init__(self, writer: sqlite3.Connection, own: sqlite3.Connection) -> None:
        self._writer = writer
        self._own = own
        self._written = 0
        self._thread: threading.Thread | None = None
        writer.execute(f"PRAGMA wal_autocheckpoint = {_BACKSTOP_PAGES}")

    def committed(self, content_bytes: int) -> None:
        """After a commit, outside of a transaction."""
        self._written += _PAGES_A_COMMIT * _PAGE + 2 * content_bytes
        if self._thread is not None:
            if not self._thread.is_alive():
                self._thread = None
                self._run(self._writer)  # the little that came meanwhile; then the log begins from its start again
                self._written = 0
        elif self._written > _AFTER_BYTES:
            self._thread = threading.Thread(target=self._run, args=(self._own,), name="bus-checkpoint", daemon=True)
            self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        self.join()
        self._own.close()

    @staticmethod
    def _run(db: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error):  # what is damaged is found by who reads it, a full disk by who writes
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
