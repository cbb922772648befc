"""What becomes of messages on the bus: taken in under offsets and keys, and read by offset."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from rl_core.backends.contracts.bus import Message, Receipt, Topic
from rl_core.backends.local.bus_clock import time_of
from rl_core.backends.local.bus_file import COLUMNS, BusFile, record_of
from rl_core.backends.local.journal_group import TOPICS, Record, State
from rl_core.backends.local.sqlite_errors import Damage

_KEYS_PER_QUERY = 500


def accept(
    db: sqlite3.Connection, state: State, messages: Sequence[Message]
) -> tuple[State, list[Record], list[Receipt]]:
    """Gives the messages their offsets: the state after them, the records to write, and a receipt for each message."""
    standing = _standing(db, [message.key for message in messages if message.topic == "decisions"])
    heads = dict(zip(TOPICS, state.heads, strict=True))
    stamp = state.reading.stamp_ns // 1000
    at = time_of(stamp)
    records, receipts = [], []
    for message in messages:
        decides = message.topic == "decisions"
        receipt = standing.get(message.key) if decides else None
        if receipt is None:
            heads[message.topic] += 1
            record = Record(message.topic, heads[message.topic], message.key, message.payload, stamp)
            records.append(record)
            receipt = Receipt(record.offset, at, message.payload, repeated=False)
            if decides:
                standing[message.key] = Receipt(record.offset, at, message.payload, repeated=True)
        receipts.append(receipt)
    return state._replace(heads=(heads["decisions"], heads["rewards"])), records, receipts


def _standing(db: sqlite3.Connection, keys: list[str]) -> dict[str, Receipt]:
    found: dict[str, Receipt] = {}
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        some = keys[start : start + _KEYS_PER_QUERY]
        marks = ", ".join("?" * len(some))
        query = f'SELECT {COLUMNS} FROM decisions WHERE key IN ({marks}) ORDER BY "offset"'  # noqa: S608
        for row in db.execute(query, some):
            record = record_of("decisions", row)
            receipt = Receipt(record.offset, time_of(record.stamp_us), record.payload, repeated=True)
            found.setdefault(record.key, receipt)
    return found


def consecutive(file: BusFile, topic: Topic, after_offset: int, limit: int) -> list[Record]:
    """What stands behind the offset. Raises Damage where something is missing that was neither pruned nor forgotten."""
    query = f'SELECT {COLUMNS} FROM {topic} WHERE "offset" > ? ORDER BY "offset" LIMIT ?'  # noqa: S608
    head = file.state().head(topic)  # first: what comes meanwhile is no gap
    records = [record_of(topic, row) for row in file.select(query, (after_offset, limit))]
    last = records[-1].offset if records else after_offset
    reached = last if len(records) >= limit else max(head, last)
    if len(records) < reached - after_offset:
        state = file.state()
        low = max(after_offset, state.floor(topic))
        query = 'SELECT "offset" FROM gone WHERE topic = ? AND "offset" > ? AND "offset" <= ?'
        gone = [Record(topic, offset, "", b"", 0, True) for (offset,) in file.select(query, (topic, low, reached))]
        kept = sum(record.offset > low for record in records)
        if kept + len(gone) < reached - low:
            raise Damage(f"{topic} between {low} and {reached} are missing")
        # Empty, so that whoever carries the messages on sees no gap where one was forgotten before it was carried.
        records = sorted([*records, *gone], key=lambda record: record.offset)[:limit]
    return records
