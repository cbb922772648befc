"""The local message bus: one SQLite file, WAL, `synchronous=FULL`.

Promises: what `publish` returned is on disk; offsets are gap-free from 1 per topic; `received_at` never decreases with
the offset, whatever the clock does; of several decisions under one key the first stands, across threads, processes and
restarts, for as long as `prune` keeps it.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rl_core.backends.base import BUS_PREFIX, Delivery, Message, Receipt, Topic
from rl_core.backends.local.files import locked
from rl_core.backends.local.sqlite_errors import explain
from rl_core.errors import BusError

_APPLICATION_ID = 0x42554C50  # marks the file as a bus, in SQLite's header
_TOPICS = ("decisions", "rewards")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS_PER_QUERY = 500
_ANY_TABLE = "SELECT 1 FROM sqlite_master LIMIT 1"
_CREATE = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE decisions ("offset" INTEGER PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL, received_at INTEGER);
CREATE TABLE rewards ("offset" INTEGER PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL, received_at INTEGER);
CREATE UNIQUE INDEX decisions_key ON decisions (key);
CREATE INDEX rewards_key ON rewards (key);
"""


def _now_us() -> int:
    return time.time_ns() // 1000


def _time(stamp_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=stamp_us)


def _stamp(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


class SqliteBus:
    """`MessageBus` over the file `path`, which is created where it is missing. Safe to share between threads.

    One connection writes and one reads, each behind its lock: a look-up doesn't wait for a commit.

    Args:
        busy_timeout_s: how long to wait for another process's transaction before BusError.
        clock: microseconds since 1970, UTC.
    """

    def __init__(self, path: Path, busy_timeout_s: float = 5.0, clock: Callable[[], int] = _now_us) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._clock = clock
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._create()
            self._reader = self._connect()
            self._producer = str(self._meta(self._reader, "producer"))

    @property
    def producer(self) -> str:
        return self._producer

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        if not messages:
            return []
        for message in messages:
            _check(message.topic)
        with self._transaction() as db:
            stamp = self._take_stamp(db)
            receipts: dict[int, Receipt] = {}
            for topic in _TOPICS:
                mine = [(i, message) for i, message in enumerate(messages) if message.topic == topic]
                if mine:
                    accepted = self._append(db, topic, [message for _, message in mine], stamp)
                    receipts.update(zip((i for i, _ in mine), accepted, strict=True))
        return [receipts[i] for i in range(len(messages))]

    def _append(self, db: sqlite3.Connection, topic: str, messages: list[Message], stamp: int) -> list[Receipt]:
        unique = topic == "decisions"
        standing = self._standing(db, [message.key for message in messages]) if unique else {}
        head = int(self._meta(db, f"{topic}_head"))
        fresh: list[tuple[int, str, bytes, int]] = []
        receipts = []
        for message in messages:
            receipt = standing.get(message.key)
            if receipt is None:
                head += 1
                fresh.append((head, message.key, message.payload, stamp))
                receipt = Receipt(head, _time(stamp), message.payload, repeated=False)
                if unique:
                    standing[message.key] = Receipt(head, receipt.received_at, message.payload, repeated=True)
            receipts.append(receipt)
        db.executemany(f"INSERT INTO {topic} VALUES (?, ?, ?, ?)", fresh)  # noqa: S608  topic is one of _TOPICS
        db.execute("UPDATE meta SET value = ? WHERE name = ?", (head, f"{topic}_head"))
        return receipts

    @staticmethod
    def _standing(db: sqlite3.Connection, keys: list[str]) -> dict[str, Receipt]:
        found: dict[str, Receipt] = {}
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[start : start + _KEYS_PER_QUERY]
            marks = ", ".join("?" * len(some))
            rows = db.execute(f'SELECT key, "offset", payload, received_at FROM decisions WHERE key IN ({marks})', some)  # noqa: S608
            found.update((key, Receipt(at, _time(stamp), payload, True)) for key, at, payload, stamp in rows)
        return found

    def now(self) -> datetime:
        return _time(self._clock())

    def lookup(self, topic: Topic, key: str) -> bytes | None:
        _check(topic)
        query = f'SELECT payload FROM {topic} WHERE key = ? ORDER BY "offset" LIMIT 1'  # noqa: S608
        rows = self._select(query, (key,))
        return bytes(rows[0][0]) if rows else None

    def read(self, topic: Topic, after_offset: int, limit: int = 10_000) -> list[Delivery]:
        _check(topic)
        query = f'SELECT * FROM {topic} WHERE "offset" > ? ORDER BY "offset" LIMIT ?'  # noqa: S608
        rows = self._select(query, (after_offset, limit))
        return [Delivery(offset, key, payload, _time(stamp)) for offset, key, payload, stamp in rows]

    def watermark(self) -> datetime:
        # A write transaction: what was stamped before it is committed, and whatever comes after gets its stamp or more.
        with self._transaction() as db:
            return _time(self._take_stamp(db))

    def head(self, topic: Topic) -> int:
        _check(topic)
        with self._explained(), self._read_lock:
            return int(self._meta(self._reader, f"{topic}_head"))

    def prune(self, topic: Topic, up_to_offset: int, keep_after: datetime) -> int:
        _check(topic)
        statement = f'DELETE FROM {topic} WHERE "offset" <= ? AND received_at < ?'  # noqa: S608
        with self._transaction() as db:
            return db.execute(statement, (up_to_offset, _stamp(keep_after))).rowcount

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=self._busy_timeout_s, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = FULL")
        return db

    def _create(self) -> None:
        db = self._writer
        with locked(self._path.with_name(f"{self._path.name}.lock"), "the creation of the message bus"):
            if not self._is_bus(db):
                db.execute("PRAGMA journal_mode = WAL")
                with self._begun(db):
                    for statement in _CREATE.strip().split(";\n"):
                        db.execute(statement)
                    meta = {
                        "producer": f"{BUS_PREFIX}{uuid.uuid4()}",
                        "last_stamp": 0,
                        "decisions_head": 0,
                        "rewards_head": 0,
                    }
                    db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
                    db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute("PRAGMA busy_timeout = 0")  # from here on _begun waits, in its own way

    def _is_bus(self, db: sqlite3.Connection) -> bool:
        identity = db.execute("PRAGMA application_id").fetchone()[0]
        if identity not in (0, _APPLICATION_ID) or (identity == 0 and db.execute(_ANY_TABLE).fetchone()):
            raise BusError(f"{self._path} is another program's SQLite file, not a message bus; move it away")
        return bool(identity == _APPLICATION_ID)

    def _take_stamp(self, db: sqlite3.Connection) -> int:
        stamp = max(self._clock(), int(self._meta(db, "last_stamp")))
        db.execute("UPDATE meta SET value = ? WHERE name = 'last_stamp'", (stamp,))
        return stamp

    @staticmethod
    def _meta(db: sqlite3.Connection, name: str) -> int | str:
        value: int | str = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]
        return value

    def _select(self, query: str, values: tuple[object, ...]) -> list[tuple]:  # type: ignore[type-arg]
        with self._explained(), self._read_lock:
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._explained(), self._write_lock, self._begun(self._writer) as db:
            yield db

    @contextmanager
    def _begun(self, db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        # SQLite's own waiting sleeps up to 0.1 s between tries: next to a busy publisher it may never get its turn.
        deadline = time.monotonic() + self._busy_timeout_s
        while not db.in_transaction:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() >= deadline:
                    raise
                time.sleep(random.uniform(0.0005, 0.0015))  # noqa: S311  no two processes in step
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise BusError(explain(error, self._path, self._busy_timeout_s)) from error


def _check(topic: str) -> None:
    if topic not in _TOPICS:
        raise BusError(f"no topic {topic!r}; the topics are {', '.join(_TOPICS)}")
