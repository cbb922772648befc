"""Opens the message bus's file, and mends what is damaged of file and journal from the other one.

Every function wants the bus's lock to be held. What is damaged is moved to `damaged-<time>/` beside it; the last
five of these folders are kept.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

from rl_core.backends.contracts.bus import Topic
from rl_core.backends.local import bus_file, bus_salvage
from rl_core.backends.local.bus_clock import BusClock
from rl_core.backends.local.bus_file import BusFile
from rl_core.backends.local.journal import Journal
from rl_core.backends.local.journal_group import TOPICS, Group, Place, Record, State, encode_record
from rl_core.backends.local.sqlite_errors import Damage, JournalDamage, Restarted, is_damage
from rl_core.errors import BusError
from rl_core.files import drop_oldest, sync_file, sync_folder

AUDITED_AT_OPEN = 64 << 20  # bytes of the journal, the newest: 0.3 s, and seconds where the processor is busy
_SET_ASIDE = 5
_log = logging.getLogger(__name__)


def catch_up(db: sqlite3.Connection, state: State, groups: Iterator[tuple[Group, Place]]) -> State:
    """Take in what the journal has beyond the file: a kill between the two, or a power cut. Raises Damage on a gap."""
    before = state
    for group, end in groups:
        records = group.records
        firsts = [next((record.offset for record in records if record.topic == topic), 0) for topic in TOPICS]
        if any(first > head + 1 for first, head in zip(firsts, state.heads, strict=True)):
            raise Damage("the journal goes on behind a gap")
        heads = (max(state.heads[0], group.state.heads[0]), max(state.heads[1], group.state.heads[1]))
        news = heads > state.heads or group.state.reading.stamp_ns > state.reading.stamp_ns
        if news:
            fresh = [record for record in records if record.offset > state.head(record.topic)]
            bus_file.insert(db, ((record, encode_record(record)) for record in fresh), again=True)
            state = group.state._replace(heads=heads, place=end)
    if state is not before:
        for topic in TOPICS:
            bus_file.cut(db, topic, state.floor(topic))
        bus_file.write_state(db, state)
        counts = [now - then for now, then in zip(state.heads, before.heads, strict=True)]
        if any(counts):
            _log.warning("took %d decisions and %d rewards from the journal that the bus's file had not kept", *counts)
    return state


def renew_journal(db: sqlite3.Connection, state: State, journal: Journal) -> State:
    """Write the journal from the file, within the file's transaction, whose commit supersedes the older segments."""
    records = chain.from_iterable(bus_file.stored(db, topic, state) for topic in TOPICS)
    state = journal.write_anew(state, records)
    bus_file.write_state(db, state)
    return state


def set_aside(path: Path, journal: Journal, segments: list[int], files: list[Path]) -> Path:
    """Move them to a folder beside the bus, which is returned."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name, attempt = f"damaged-{stamp}", 1
    while (folder := path.with_name(name)).exists():
        attempt += 1
        name = f"damaged-{stamp}-{attempt:03d}"
    folder.mkdir()
    journal.drop(segments, into=folder)
    for file in files:
        if file.exists():
            file.replace(folder / file.name)
    drop_oldest(path.parent, "damaged-*", _SET_ASIDE)
    sync_folder(path.parent)
    return folder


def rebuild(path: Path, journal: Journal, known: State | None, clock: BusClock, cause: Exception) -> None:
    """A new file from the journal, and from what can be read of the old one. Raises `cause` when neither is a bus."""
    new = path.with_name(f"{path.name}.new")
    for left in (new, path.with_name(f"{new.name}-wal"), path.with_name(f"{new.name}-shm")):
        left.unlink(missing_ok=True)
    new.touch()
    db = bus_file.connect(new, 0)
    try:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA journal_mode = MEMORY")
        db.execute("BEGIN")
        bus_file.create_tables(db)
        replayed = None
        for group, end in journal.groups(Place(0, 0)):
            bus_file.insert(db, ((record, encode_record(record)) for record in group.records), again=True)
            if replayed is None or group.state.reading.stamp_ns >= replayed.reading.stamp_ns:
                replayed = group.state
            replayed = replayed._replace(place=end)
        with bus_salvage.opened(path) as old:
            states = [state for state in (replayed, bus_salvage.state(old), known) if state is not None]
            if not states:
                raise cause
            state = _latest(states, path)
            state = state._replace(reading=clock.after(state.reading))  # the file is of this start of the machine
            for topic in TOPICS:
                bus_file.cut(db, topic, state.floor(topic))
            salvaged, state = bus_salvage.fill(db, old, state)
        lost = [_mark_lost(db, topic, state) for topic in TOPICS]
        superseded: list[int] = []
        try:
            if salvaged or any(lost):
                raise Damage("the journal lacks what the file had")
            journal.audit(state)
            bus_file.write_state(db, state)
        except Damage:
            superseded = journal.segments()
            state = renew_journal(db, state, journal)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
    except BaseException:  # the disk is full, say: what is half done takes no room
        db.close()
        new.unlink()
        journal.clear()
        raise
    db.close()
    sync_file(new)
    # The log goes first: left beside the new file, SQLite would play it into that one.
    olds = [path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm"), path]
    counts = [head - floor for head, floor in zip(state.heads, state.floors, strict=True)]
    if isinstance(cause, Restarted) and not superseded:
        for file in olds:
            file.unlink(missing_ok=True)
        new.replace(path)
        sync_folder(path.parent)
        _log.info("%s: %s; built anew with %d decisions and %d rewards", path, cause, *counts)
        return
    folder = set_aside(path, journal, superseded, olds)
    new.replace(path)
    sync_folder(path.parent)
    _log.warning(
        "%s: %s; built anew with %d decisions and %d rewards, %d of them from the old file, which is now in %s",
        path,
        cause,
        *counts,
        salvaged,
        folder,
    )
    for topic, offsets in zip(TOPICS, lost, strict=True):
        if offsets:
            _log.error(
                "%s: %d %s are in neither copy, from offset %d to %d: lost where the event store has not got them yet; "
                "look at %s, and at the event logger",
                path,
                len(offsets),
                topic,
                offsets[0],
                offsets[-1],
                folder,
            )


def take_up(
    path: Path, busy_timeout_s: float, journal: Journal, known: State | None, clock: BusClock, first: State, audit: bool
) -> BusFile:
    """The file of the bus, whole and with all that the journal has. A new bus begins with the state `first`.

    Args:
        known: what this process has seen of the bus before; None at its start.
        clock: tells whether the machine was started again since the file was written.
        audit: look through the journal, too, while everyone waits; else its damage is the caller's to find.
    """
    journal.clear()
    try:
        return _opened(path, busy_timeout_s, journal, known, clock, first, audit)
    except Exception as error:
        if not is_damage(error):
            raise
        rebuild(path, journal, known, clock, error)
        return _opened(path, busy_timeout_s, journal, known, clock, first, audit)


def _opened(
    path: Path, busy_timeout_s: float, journal: Journal, known: State | None, clock: BusClock, first: State, audit: bool
) -> BusFile:
    if not path.exists() or path.stat().st_size == 0:
        if journal.segments():
            raise Damage("the file is gone" if not path.exists() else "the file is empty")
        if known is not None:
            raise BusError(f"{path}: file and journal are gone while the bus is in use; start its processes again")
        _create(path, first)
    file = BusFile(path, busy_timeout_s)
    try:
        _check_identity(path, file, journal)
        superseded, reason = _settle(file, journal, clock, audit)
    except BaseException:
        file.close()
        raise
    if superseded:
        folder = set_aside(path, journal, superseded, [])
        _log.warning("%s: %s; the journal was written anew from the file, the old one is in %s", path, reason, folder)
    return file


def _settle(file: BusFile, journal: Journal, clock: BusClock, audit: bool) -> tuple[list[int], str]:
    """The file has what the journal has when it returns; with `audit` also the other way.

    Returns the segments that count no more, and why. Raises Restarted where nothing says that the file is on disk.
    """
    with file.begun() as db:
        if db.execute("PRAGMA user_version").fetchone()[0] < bus_file.VERSION:
            bus_salvage.upgrade(db)
        state = bus_file.read_state(db)
        present = journal.segments()
        if not present:
            renew_journal(db, state._replace(reading=clock.after(state.reading)), journal)
            return [], ""
        if clock.boot and state.reading.boot != clock.boot:
            raise Restarted("the machine was started again since it was written")
        state = catch_up(db, state, journal.groups(state.place))
        try:
            if audit:
                journal.audit(state, AUDITED_AT_OPEN)
        except Damage as damage:
            renew_journal(db, state, journal)
            return present, str(damage)
        return [], ""


def _check_identity(path: Path, file: BusFile, journal: Journal) -> None:
    ((identity,),) = file.select("PRAGMA application_id")
    if identity == bus_file.APPLICATION_ID:
        return
    if journal.segments():
        raise Damage("the file is not the bus's")
    raise BusError(f"{path} is another program's SQLite file, not a message bus; move it away")


def mend(path: Path, journal: Journal, known: State | None, clock: BusClock, cause: Exception) -> None:
    """After this, `take_up` finds a whole bus. The file must be closed in this process."""
    if not isinstance(cause, JournalDamage):  # that one is found and mended by take_up itself
        rebuild(path, journal, known, clock, cause)


def _create(path: Path, first: State) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch()
    db = bus_file.connect(new, 0)
    try:
        db.execute("BEGIN")
        bus_file.create_tables(db)
        bus_file.write_state(db, first)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
    finally:
        db.close()
    sync_file(new)
    for left in ("-wal", "-shm"):
        path.with_name(path.name + left).unlink(missing_ok=True)
    new.replace(path)
    sync_folder(path.parent)


def _latest(states: list[State], path: Path) -> State:
    """What is known of the bus from all that could be read."""
    if len(producers := sorted({state.producer for state in states})) > 1:
        raise BusError(f"{path}: the journal is of another bus than the file, {' and '.join(producers)}; move one away")
    heads = (max(state.heads[0] for state in states), max(state.heads[1] for state in states))
    floors = (max(state.floors[0] for state in states), max(state.floors[1] for state in states))
    reading = max((state.reading for state in states), key=lambda reading: reading.stamp_ns)
    return states[0]._replace(heads=heads, floors=floors, reading=reading)


def _mark_lost(db: sqlite3.Connection, topic: Topic, state: State) -> list[int]:
    offsets = [offset for low, high in bus_salvage.holes(db, topic, state) for offset in range(low, high + 1)]
    bus_file.insert(db, ((Record(topic, offset, "", b"", 0, True), b"") for offset in offsets))
    return offsets
