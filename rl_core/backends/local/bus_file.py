"""The SQLite file of the message bus: its tables, their checksums, and a writer's and a reader's connection."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rl_core.backends.contracts.bus import Topic
from rl_core.backends.local.checkpoints import Checkpoints
from rl_core.backends.local.journal_group import TOPICS, Record, State, encode_record
from rl_core.backends.local.sqlite_errors import Damage
from rl_core.clock import boot_id

APPLICATION_ID = 0x42554C50  # marks the file as a bus, in SQLite's header
VERSION = 2  # of the tables; 1 had no checksums and no journal
CREATE = """
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE gone (topic TEXT NOT NULL, "offset" INTEGER NOT NULL, PRIMARY KEY (topic, "offset")) WITHOUT ROWID;
CREATE TABLE decisions ("offset" INTEGER PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL,
    received_at INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE rewards ("offset" INTEGER PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL,
    received_at INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX decisions_key ON decisions (key);
CREATE INDEX rewards_key ON rewards (key)""".strip().split(";\n")
COLUMNS = '"offset", key, payload, received_at, crc'


def connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    """To a file that is there: it is never made by accident."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    db = sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    # What a power cut takes from the file, or mixes up in it, is in the journal: after a restart of the machine it is
    # built anew. Where nothing tells of a restart, it is at least no mixture.
    db.execute(f"PRAGMA synchronous = {'OFF' if boot_id() else 'NORMAL'}")
    db.execute("PRAGMA secure_delete = ON")
    return db


def create_tables(db: sqlite3.Connection) -> None:
    for statement in CREATE:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def record_of(topic: Topic, row: Sequence[Any]) -> Record:
    """The record in a row of COLUMNS. Raises Damage when it is not what was written."""
    offset, key, payload, stamp, crc = row
    if isinstance(offset, int) and isinstance(key, str) and isinstance(payload, bytes) and isinstance(stamp, int):
        record = Record(topic, offset, key, payload, stamp)
        if zlib.crc32(encode_record(record)) == crc:
            return record
    raise Damage(f"{topic} {offset} is not what was written")


def read_state(db: sqlite3.Connection) -> State:
    row = db.execute("SELECT value, crc FROM state").fetchone()
    if row is None or not isinstance(row[0], bytes) or zlib.crc32(row[0]) != row[1]:
        raise Damage("its state is not what was written")
    return State.loaded(row[0])


def write_state(db: sqlite3.Connection, state: State) -> None:
    content = state.dumped()
    db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (content, zlib.crc32(content)))


def insert(db: sqlite3.Connection, records: Iterable[tuple[Record, bytes]], again: bool = False) -> None:
    """Records with their encoding; `again`: they may be in already, and a later one under the same offset stands."""
    rows: dict[Topic, list[tuple[int, str, bytes, int, int]]] = {topic: [] for topic in TOPICS}
    for record, encoded in records:
        if record.gone:
            forget(db, record.topic, record.offset)
        else:
            crc = zlib.crc32(encoded)
            rows[record.topic].append((record.offset, record.key, record.payload, record.stamp_us, crc))
    statement = "INSERT OR REPLACE" if again else "INSERT"
    for topic, some in rows.items():
        if some:
            db.executemany(f"{statement} INTO {topic} VALUES (?, ?, ?, ?, ?)", some)


def forget(db: sqlite3.Connection, topic: Topic, offset: int) -> None:
    """The offset stays given; its message is gone."""
    db.execute(f'DELETE FROM {topic} WHERE "offset" = ?', (offset,))  # noqa: S608
    db.execute("INSERT OR IGNORE INTO gone VALUES (?, ?)", (topic, offset))


def cut(db: sqlite3.Connection, topic: Topic, floor: int) -> int:
    """Delete what was pruned; returns how many messages."""
    db.execute('DELETE FROM gone WHERE topic = ? AND "offset" <= ?', (topic, floor))
    return db.execute(f'DELETE FROM {topic} WHERE "offset" <= ?', (floor,)).rowcount  # noqa: S608


def stored(db: sqlite3.Connection, topic: Topic, state: State) -> Iterator[Record]:
    """Every record that is not pruned, also those that are gone, by offset. Raises Damage unless all are there."""
    query = f"""SELECT {COLUMNS}, 0 FROM {topic} WHERE "offset" > ?1
        UNION ALL SELECT "offset", '', x'', 0, 0, 1 FROM gone WHERE topic = ?2 AND "offset" > ?1 ORDER BY 1"""  # noqa: S608
    expected = state.floor(topic)
    for *row, is_gone in db.execute(query, (expected, topic)):
        expected += 1
        if row[0] != expected:
            break
        yield Record(topic, row[0], "", b"", 0, True) if is_gone else record_of(topic, row)
    if expected != state.head(topic):
        raise Damage(f"{topic} {expected} is not in it")


class BusFile:
    """One connection writes and one reads, each behind its lock. Opened and closed under the bus's lock."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        self._name = os.fspath(path)
        self._busy_timeout_s = busy_timeout_s
        self._read_lock = threading.Lock()
        self._identity = os.stat(path)
        self.writer = connect(path, busy_timeout_s)
        try:
            self.writer.execute("PRAGMA journal_mode = WAL")
            self.writer.execute("PRAGMA busy_timeout = 0")  # from here on `begun` waits, in its own way
            self._reader = connect(path, busy_timeout_s)
            self._reader.execute("SELECT 1 FROM sqlite_master").fetchone()
            self.checkpoints = Checkpoints(self.writer, connect(path, busy_timeout_s))
        except BaseException:
            self.close()
            raise

    def is_current(self) -> bool:
        """Whether this is still the file under its name; else somebody built a new one, or it was taken away."""
        try:
            return os.path.samestat(os.stat(self._name), self._identity)
        except FileNotFoundError:
            return False

    @contextmanager
    def begun(self) -> Iterator[sqlite3.Connection]:
        """A write transaction. Ours exclude each other by the bus's lock; this waits for another program's."""
        db, deadline = self.writer, time.monotonic() + self._busy_timeout_s
        while not db.in_transaction:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() >= deadline:
                    raise
                time.sleep(random.uniform(0.0005, 0.0015))  # noqa: S311
        try:
            yield db
            if db.in_transaction:  # else it has committed itself
                db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def select(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._read_lock:
            return self._reader.execute(query, values).fetchall()

    def state(self) -> State:
        with self._read_lock:
            return read_state(self._reader)

    def truncate_log(self) -> bool:
        """Nothing is left in the write-ahead log; False while somebody reads from it."""
        self.checkpoints.join()
        return bool(self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)

    def close(self) -> None:
        if checkpoints := getattr(self, "checkpoints", None):
            checkpoints.close()
        with self._read_lock:
            for name in ("_reader", "writer"):
                if db := getattr(self, name, None):
                    db.close()
