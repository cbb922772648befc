"""Takes all messages under some keys out of both copies of the bus; their offsets stay given."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from rl_core.backends.local import bus_file, bus_repair
from rl_core.backends.local.bus_file import BusFile
from rl_core.backends.local.journal import Journal
from rl_core.backends.local.journal_group import TOPICS, Place, Record, encode_group, encode_record
from rl_core.errors import BusError
from rl_core.files import sync_file

_WAIT_FOR_READERS_S = 5.0
_KEYS_PER_QUERY = 500
_log = logging.getLogger(__name__)


def forget(file: BusFile, journal: Journal, path: Path, keys: Sequence[str]) -> int:
    """How many messages there were. Under the bus's lock; once it has returned, neither copy has them.

    Raises BusError, OSError: forget again.
    """
    wanted = set(keys)
    with file.begun() as db:
        state = bus_file.read_state(db)
        state = bus_repair.catch_up(db, state, journal.following(state.place))
        # The segments that are rewritten must not be appended to: the journal goes on in a new one.
        place = journal.append_to_next(state.place)
        parts = [list(keys[start : start + _KEYS_PER_QUERY]) for start in range(0, len(keys), _KEYS_PER_QUERY)]
        offsets = [
            (topic, offset)
            for topic in TOPICS
            for part in parts
            for (offset,) in db.execute(_found(topic, len(part)), part).fetchall()
        ]
        for topic, offset in offsets:
            bus_file.forget(db, topic, offset)
        for segment in journal.segments():
            if segment < place.segment:
                _forget_in(journal, segment, wanted)
        bus_file.write_state(db, state._replace(place=place))
    deadline = time.monotonic() + _WAIT_FOR_READERS_S
    while not file.truncate_log():
        if time.monotonic() > deadline:
            raise BusError(f"{path}: a reader keeps the old content in the write-ahead log; forget these keys again")
        time.sleep(0.01)
    sync_file(path)  # else a power cut may bring the old content back
    if asides := sorted(path.parent.glob("damaged-*")):
        _log.warning("what was set aside may still hold the forgotten messages: %s", ", ".join(map(str, asides)))
    return len(offsets)


def _found(topic: str, count: int) -> str:
    return f'SELECT "offset" FROM {topic} WHERE key IN ({", ".join("?" * count)})'  # noqa: S608  a Topic


def _forget_in(journal: Journal, segment: int, wanted: set[str]) -> None:
    parts, found = [], False
    for group, _ in journal.groups(Place(segment, 0), segment):
        records = []
        for record in group.records:
            if not record.gone and record.key in wanted:
                found = True
                record = Record(record.topic, record.offset, "", b"", 0, True)
            records.append(encode_record(record))
        parts.append(encode_group(group.state, records))
    if found:
        journal.replace(segment, b"".join(parts))
