"""What can still be read of a bus's file that is damaged, or is from before there was a journal."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from rl_core.backends.contracts.bus import Topic
from rl_core.backends.local import bus_file
from rl_core.backends.local.bus_file import COLUMNS, record_of
from rl_core.backends.local.journal_group import TOPICS, Place, Record, State, encode_record
from rl_core.backends.local.sqlite_errors import Damage
from rl_core.clock import Reading

_ONE_BY_ONE = 100_000  # offsets between the readable ends that are looked up singly
_UNREADABLE = (sqlite3.Error, Damage, ValueError, TypeError, OverflowError)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection | None]:
    """The old file; None where there is none that SQLite opens."""
    db = None
    try:
        if path.exists():
            db = bus_file.connect(path, 0)
            db.execute("PRAGMA writable_schema = ON")  # else a file that was cut short is not read at all
            db.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.Error:
        if db is not None:
            db.close()
        db = None
    try:
        yield db
    finally:
        if db is not None:
            db.close()


def state(old: sqlite3.Connection | None) -> State | None:
    """The state in the old file, where it is readable."""
    if old is None:
        return None
    try:
        return bus_file.read_state(old)
    except _UNREADABLE:
        return None


def holes(db: sqlite3.Connection, topic: Topic, state: State) -> Iterator[tuple[int, int]]:
    """Ranges of offsets, both ends included, that should be in the file and are not."""
    query = f"""SELECT "offset" FROM {topic} WHERE "offset" > ?1
        UNION SELECT "offset" FROM gone WHERE topic = ?2 AND "offset" > ?1 ORDER BY 1"""  # noqa: S608  a Topic
    reached = state.floor(topic)
    found = (offset for (offset,) in db.execute(query, (reached, topic)))
    for offset in chain(found, [state.head(topic) + 1]):
        if offset > reached + 1:
            yield reached + 1, offset - 1
        reached = offset


def fill(db: sqlite3.Connection, old: sqlite3.Connection | None, state: State) -> tuple[int, State]:
    """Take from the old file what the new one lacks; returns how many messages, and the state with its heads."""
    if old is None:
        return 0, state
    count, heads = 0, list(state.heads)
    for number, topic in enumerate(TOPICS):
        ranges = [*holes(db, topic, state), (state.head(topic) + 1, 1 << 62)]
        for low, high in ranges:
            found = {record.offset: record for record in _readable(old, topic, low, high)}
            bus_file.insert(db, ((record, encode_record(record)) for record in found.values()), again=True)
            count += len(found)
            heads[number] = max([heads[number], *found])
    return count, state._replace(heads=(heads[0], heads[1]))


def _readable(old: sqlite3.Connection, topic: Topic, low: int, high: int) -> Iterator[Record]:
    """From both ends up to what can't be read, and then one by one."""
    reached = low - 1
    for record in _until_damage(old, topic, low, high, "ASC"):
        reached = max(reached, record.offset)
        yield record
    top = high + 1
    for record in _until_damage(old, topic, reached + 1, high, "DESC"):
        top = min(top, record.offset)
        yield record
    for offset in range(reached + 1, min(top, reached + _ONE_BY_ONE)):
        yield from _until_damage(old, topic, offset, offset, "ASC")
        if top > high and offset - reached > 1000:  # no upper end is known: nothing can be there for ever
            return


def _until_damage(old: sqlite3.Connection, topic: Topic, low: int, high: int, order: str) -> Iterator[Record]:
    query = f'SELECT {COLUMNS} FROM {topic} WHERE "offset" BETWEEN ? AND ? ORDER BY "offset" {order}'  # noqa: S608
    try:
        for row in old.execute(query, (low, high)):
            yield record_of(topic, row)
    except _UNREADABLE:
        return


def upgrade(db: sqlite3.Connection) -> None:
    """Give a file from before the journal its checksums and its state, within a transaction."""
    meta: dict[str, Any] = dict(db.execute("SELECT name, value FROM meta"))
    floors = []
    for topic in TOPICS:
        topic_head = int(meta[f"{topic}_head"])
        lowest = db.execute(f'SELECT min("offset") FROM {topic}').fetchone()[0]  # noqa: S608
        floors.append(topic_head if lowest is None else lowest - 1)
        checksum = f"crc_of_{topic}"
        db.create_function(checksum, 4, _checksum_of(topic), deterministic=True)
        db.execute(f"ALTER TABLE {topic} ADD COLUMN crc INTEGER")
        db.execute(f'UPDATE {topic} SET crc = {checksum}("offset", key, payload, received_at)')  # noqa: S608
        db.execute(f"DROP INDEX {topic}_key")
    for statement in bus_file.CREATE:
        if not any(f"TABLE {topic} " in statement for topic in TOPICS):
            db.execute(statement)
    heads = (int(meta["decisions_head"]), int(meta["rewards_head"]))
    reading = Reading(1000 * int(meta["last_stamp"]), 0, "")
    now = State(str(meta["producer"]), heads, (floors[0], floors[1]), reading, 1, Place(0, 0))
    bus_file.write_state(db, now)
    db.execute("DROP TABLE meta")
    db.execute(f"PRAGMA user_version = {bus_file.VERSION}")


def _checksum_of(topic: Topic) -> Any:
    def checksum(offset: int, key: str, payload: bytes, stamp: int) -> int:
        return zlib.crc32(encode_record(Record(topic, offset, key, bytes(payload), stamp)))

    return checksum
