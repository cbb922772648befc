"""The local message bus: an SQLite file, and a journal beside it. Each can be built from the other.

Promises: what `publish` returned is on disk in the journal and readable from the file; offsets are gap-free from 1 per
topic; `received_at` never decreases with the offset, whatever the wall clock does; of several decisions under one key
the first stands, across threads, processes and restarts, for as long as `prune` keeps it. Damage to one of the copies
is mended from the other, and said in the log, by whichever process meets it.
Why two: docs/decisions/0011-the-bus-has-two-copies.md.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from rl_core.backends.contracts.bus import BUS_PREFIX, Delivery, Message, Receipt, Topic
from rl_core.backends.local import bus_file, bus_forget, bus_repair
from rl_core.backends.local.bus_clock import BusClock, stamp_of, time_of
from rl_core.backends.local.bus_file import COLUMNS, BusFile, record_of
from rl_core.backends.local.bus_lock import BusLock
from rl_core.backends.local.bus_messages import accept, consecutive
from rl_core.backends.local.journal import Journal
from rl_core.backends.local.journal_group import TOPICS, Place, Record, State, encode_group, encode_record
from rl_core.backends.local.sqlite_errors import Damage, explain, is_damage
from rl_core.clock import Reading, SteadyClock
from rl_core.errors import BusError

_PRUNED_AT_ONCE = 10_000  # messages: who publishes meanwhile waits for so many, about 0.2 s
_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Step = Callable[[sqlite3.Connection, State], tuple[State, list[Record], _T]]


class SqliteBus:
    """`MessageBus` over the file `path`, which is created where it is missing. Safe to share between threads.

    The folder of `path` is the bus's own: journal and set-aside files lie there. One connection writes and one reads: a
    look-up doesn't wait for a commit.

    Args:
        busy_timeout_s: how long to wait for another process's transaction before BusError.
        clock: of the stamps.
    """

    def __init__(self, path: Path, busy_timeout_s: float = 5.0, clock: SteadyClock | None = None) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_s
        self._clock = BusClock(clock or SteadyClock())
        self._journal = Journal(path.parent)
        self._lock = BusLock(path.with_name(f"{path.name}.lock"), busy_timeout_s)
        self._known: State | None = None  # the last state that this process has seen
        self._file: BusFile | None = None
        self._closed = False
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock.held():
                self._known = self._mended(lambda: self._reopened(audit=False).state())
        self._clock.after(self._known.reading)
        self._producer = self._known.producer
        self._look_through(self._known)

    @property
    def producer(self) -> str:
        return self._producer

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        for message in messages:
            _check(message.topic)
        if not messages:
            return []
        return self._write(lambda db, state: accept(db, state, messages))

    def now(self) -> datetime:
        return time_of(self._clock.now().stamp_ns // 1000)

    def lookup(self, topic: Topic, key: str) -> bytes | None:
        _check(topic)
        query = f'SELECT {COLUMNS} FROM {topic} WHERE key = ? ORDER BY "offset" LIMIT 1'  # noqa: S608
        found = self._read(lambda file: [record_of(topic, row) for row in file.select(query, (key,))])
        return found[0].payload if found else None

    def read(self, topic: Topic, after_offset: int, limit: int = 10_000) -> list[Delivery]:
        _check(topic)
        records = self._read(lambda file: consecutive(file, topic, after_offset, limit))
        return [Delivery(r.offset, r.key, r.payload, time_of(r.stamp_us)) for r in records]

    def watermark(self) -> datetime:
        # A write transaction: what was stamped before it is committed, and whatever comes after gets its stamp or more.
        return self._write(lambda _, state: (state, [], time_of(state.reading.stamp_ns // 1000)))

    def head(self, topic: Topic) -> int:
        _check(topic)
        return self._read(lambda file: file.state()).head(topic)

    def prune(self, topic: Topic, up_to_offset: int, keep_after: datetime) -> int:
        _check(topic)
        oldest = f'SELECT "offset", received_at FROM {topic} WHERE "offset" <= ? ORDER BY "offset" LIMIT ?'  # noqa: S608
        query = f'SELECT max("offset") FROM ({oldest}) WHERE received_at < ?'  # noqa: S608

        def step(db: sqlite3.Connection, state: State) -> tuple[State, list[Record], int]:
            ((last,),) = db.execute(query, (up_to_offset, _PRUNED_AT_ONCE, stamp_of(keep_after)))
            floor = max(last or 0, state.floor(topic))
            floors = (floor, state.floors[1]) if topic == TOPICS[0] else (state.floors[0], floor)
            state = state._replace(floors=floors)
            first = self._journal.first_needed(state)
            return state._replace(first=first), [], bus_file.cut(db, topic, floor)

        pruned = some = self._write(step)
        while some == _PRUNED_AT_ONCE:
            pruned += (some := self._write(step))
        with self._explained(), self._lock.held():
            state = self._current().state()
            self._journal.drop(segment for segment in self._journal.segments() if segment < state.first)
        return pruned

    def forget(self, keys: Sequence[str]) -> int:
        with self._explained(), self._lock.held():
            return self._mended(lambda: bus_forget.forget(self._current(), self._journal, self._path, keys))

    def close(self) -> None:
        self._closed = True
        self._lock.close()  # waits for the thread that has it
        self._close_file()
        self._journal.close()

    def _write(self, step: _Step[_T]) -> _T:
        """One transaction: durable in the journal, then in the file."""
        done: list[_T] = []

        def attempt() -> _T:
            if done:  # the journal had it, and what was damaged after that was built from the journal
                return done[0]
            file = self._current()
            with file.begun() as db:
                state = bus_file.read_state(db)
                state = bus_repair.catch_up(db, state, self._journal.following(state.place))
                begin = state.place
                after, records, result = step(db, state._replace(reading=self._clock.after(state.reading)))
                encoded = [encode_record(record) for record in records]
                bus_file.insert(db, zip(records, encoded, strict=True))
                group = encode_group(after, encoded)
                end = self._journal.append(group, begin)
                # Behind a group without records the next one goes to the same place: an idle bus takes no room.
                place = end if records else end._replace(position=end.position - len(group))
                after = after._replace(place=place)
                done.append(result)
                try:
                    bus_file.write_state(db, after)
                    db.execute("COMMIT")
                except Exception as error:
                    if not is_damage(error):  # the disk is full, say: this was not accepted, in the journal neither
                        self._journal.withdraw(begin)
                        done.clear()
                    raise
            file.checkpoints.committed(len(group))
            self._known = after
            return result

        with self._explained(), self._lock.held():
            return self._mended(attempt)

    def _read(self, read: Callable[[BusFile], _T]) -> _T:
        with self._explained():
            try:
                file = self._file  # another thread may drop it at any moment
                if file is not None and file.is_current():
                    return read(file)
            except sqlite3.ProgrammingError:
                pass  # another thread closes it at this moment, to take up a new one
            except Exception as error:
                if not is_damage(error):
                    raise
            with self._lock.held():
                return self._mended(lambda: read(self._current()))

    def _mended(self, attempt: Callable[[], _T]) -> _T:
        """Its result; where it meets damage that is mended, and it is tried once more. Under the lock."""
        try:
            return attempt()
        except Exception as error:
            if not is_damage(error):
                raise
            self._close_file()
            bus_repair.mend(self._path, self._journal, self._known, self._clock, error)
            return attempt()

    def _look_through(self, state: State) -> None:
        """The journal, while others publish: what is written stays. What seems wrong is settled under the lock.

        It may be right all the same: another process pruned it at this moment, or wrote it anew.
        """
        journal = Journal(self._path.parent)
        try:
            journal.audit(state, bus_repair.AUDITED_AT_OPEN)
        except (Damage, OSError):
            with self._explained(), self._lock.held():
                self._mended(lambda: self._reopened(audit=True))
        finally:
            journal.close()

    def _current(self) -> BusFile:
        """The open file, if it still is the one under its name; else that one. Under the lock."""
        if self._file is None:  # closed for damage, which may be the journal's
            return self._reopened(audit=True)
        return self._file if self._file.is_current() else self._reopened(audit=False)

    def _reopened(self, audit: bool) -> BusFile:
        self._close_file()
        first = State(f"{BUS_PREFIX}{uuid.uuid4()}", (0, 0), (0, 0), Reading(0, 0, ""), 1, Place(0, 0))
        self._file = bus_repair.take_up(
            self._path, self._busy_timeout_s, self._journal, self._known, self._clock, first, audit
        )
        if self._known is not None and self._file.state().producer != self._known.producer:
            self._close_file()
            raise BusError(f"{self._path}: another bus took its place while it is in use; start its processes again")
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        if self._closed:
            raise BusError(f"{self._path}: this bus was closed; open it again")
        try:
            yield
        except (sqlite3.Error, OSError, Damage) as error:
            raise BusError(explain(error, self._path, self._busy_timeout_s)) from error


def _check(topic: str) -> None:
    if topic not in TOPICS:
        raise BusError(f"no topic {topic!r}; the topics are {', '.join(TOPICS)}")
