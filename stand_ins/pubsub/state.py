"""What the stand-in remembers: one SQLite file, so that a restart keeps every message that was acknowledged."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from stand_ins.grpc_service import ApiError
from stand_ins.pubsub.queue import Queue

_CREATE = """
CREATE TABLE IF NOT EXISTS resources (name TEXT PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS policies (name TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
  subscription TEXT NOT NULL, message INTEGER NOT NULL, ordering_key TEXT NOT NULL,
  due REAL NOT NULL, ack_id TEXT, attempts INTEGER NOT NULL DEFAULT 0, repeated INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (subscription, message)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (subscription, due);
CREATE INDEX IF NOT EXISTS deliveries_ack ON deliveries (ack_id);
"""


class State:
    """Resources as their own serialised messages; one lock, one connection."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / "pubsub.sqlite", isolation_level=None, check_same_thread=False)
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _CREATE)
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        self.queue = Queue(self.transaction)

    @contextmanager
    def transaction(self, quiet: bool = False) -> Iterator[sqlite3.Connection]:
        """Whoever waits on `changed` looks again afterwards, unless it is quiet."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            if not quiet:
                self.changed.notify_all()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def find(self, kind: Any, name: str) -> Any | None:
        with self._lock:
            row = self._db.execute(
                "SELECT body FROM resources WHERE name = ? AND kind = ?", (name, kind.__name__)
            ).fetchone()
        return None if row is None else kind.deserialize(row[0])

    def get(self, kind: Any, name: str) -> Any:
        found = self.find(kind, name)
        if found is None:
            raise ApiError(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={name.rpartition('/')[2]}).")
        return found

    def create(self, resource: Any) -> Any:
        with self.transaction() as db:
            if self.find(type(resource), resource.name) is not None:
                short = resource.name.rpartition("/")[2]
                raise ApiError(
                    grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists in the project (resource={short})."
                )
            db.execute(
                "INSERT INTO resources VALUES (?, ?, ?)",
                (resource.name, type(resource).__name__, type(resource).serialize(resource)),
            )
        return resource

    def replace(self, resource: Any) -> Any:
        with self.transaction() as db:
            db.execute(
                "UPDATE resources SET body = ? WHERE name = ?", (type(resource).serialize(resource), resource.name)
            )
        return resource

    def remove(self, kind: Any, name: str) -> Any:
        with self.transaction() as db:
            found = self.get(kind, name)
            db.execute("DELETE FROM resources WHERE name = ?", (name,))
            db.execute("DELETE FROM policies WHERE name = ?", (name,))
        return found

    def all(self, kind: Any) -> list[Any]:
        """By name."""
        with self._lock:
            rows = self._db.execute("SELECT body FROM resources WHERE kind = ? ORDER BY name", (kind.__name__,))
            return [kind.deserialize(body) for (body,) in rows]
