"""The local message bus over one append-only journal: docs/decisions/0012-the-bus-is-one-journal.md.

Promises: what `publish` returned is on disk; offsets are gap-free from 1 per topic; `received_at` never decreases with
the offset, whatever the wall clock does; of several decisions under one key the first stands, across threads,
processes and restarts, for as long as `prune` keeps it. What damage took is named in the log and delivered as empty
messages, by whichever process meets it.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from rl_core.backends.contracts.bus import BUS_PREFIX, Delivery, Message, Receipt, Topic
from rl_core.backends.local.bus.frames import (
    NO_RECORDS,
    TOPICS,
    Offsets,
    Records,
    State,
    encode_frame,
    encode_opening,
    records_of,
    without,
)
from rl_core.backends.local.bus.keys import Keys
from rl_core.backends.local.bus.mark import Mark, MarkedLock, Place
from rl_core.backends.local.bus.mending import mend
from rl_core.backends.local.bus.reading import Damaged, Reader
from rl_core.backends.local.bus.recovery import end_of_journal, refuse_older_format
from rl_core.backends.local.bus.segments import Segments
from rl_core.clock import Reading, SteadyClock
from rl_core.errors import BusError
from rl_core.files import StillLocked, explained, write_atomically

_FRESH_NS = 50_000_000  # a watermark may be so old: while messages come it costs no write
_SEGMENTS_PER_KEEP = 24
_log = logging.getLogger(__name__)


class LocalBus:
    """`MessageBus` in `folder`, which is its own and is created where it is missing. Safe to share between threads.

    Args:
        busy_timeout_s: how long to wait for another process's write before BusError.
        clock: of the stamps.
    """

    _known: Mark  # the last that this process has seen

    def __init__(self, folder: Path, busy_timeout_s: float = 5.0, clock: SteadyClock | None = None) -> None:
        self._folder = folder
        self._clock = clock or SteadyClock()
        self._lock = MarkedLock(folder, busy_timeout_s)
        self._segments = Segments(folder)
        self._reader = Reader(self._segments)
        self._keys = Keys(self._segments)
        self._open = _Open(folder)
        with self._open:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_older_format(folder)
            with self._lock:
                self._known = self._recovered(None)
        self.producer = self._known.state.producer
        self._clock.read_after(self._known.state.reading)

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        for topic in {message.topic for message in messages}:
            _check(topic)
        if not messages:
            return []
        keys = [message.key for message in messages if message.topic == "decisions"]
        with self._open, self._lock:
            before = self._current()
            standing = self._standing(keys, before) if keys else {}
            state = before.state.at(self._clock.read_after(before.state.reading))
            (decisions, rewards), at = state.heads, state.reading.at
            fresh, receipts, first = list[Message](), list[Receipt](), dict[str, int]()
            for place, message in enumerate(messages):
                if message.topic == "rewards":
                    rewards += 1
                    receipts.append(Receipt(rewards, at, message.payload, False))
                elif message.key in standing:
                    receipts.append(standing[message.key])
                    continue
                elif (earlier := first.setdefault(message.key, place)) != place:
                    payload = messages[earlier].shared + messages[earlier].payload
                    receipts.append(Receipt(receipts[earlier].offset, at, payload, True))
                    continue
                else:
                    decisions += 1
                    receipts.append(Receipt(decisions, at, message.payload, False))
                fresh.append(message)
            if fresh:
                counts = decisions - state.heads[0], rewards - state.heads[1]
                written = self._write(state, counts, records_of(fresh))
                self._keys.add([*first], before.place, written, self._known.place)
            return receipts

    def now(self) -> datetime:
        return self._clock.read().at

    def lookup(self, key: str) -> bytes | None:
        with self._open:
            found, missed = self._keys.find([key], self._counted())
            if missed:
                with self._lock:
                    found = self._standing([key], self._current(), missed)
            return found[key].payload if found else None

    def read(self, topic: Topic, after_offset: int, limit: int = 10_000) -> list[Delivery]:
        _check(topic)
        with self._open:
            try:
                return self._reader.deliveries(self._counted(), topic, after_offset, limit)
            except Damaged:
                return self._read_mended(topic, after_offset, limit)

    def watermark(self) -> datetime:
        with self._open, self._lock:
            state, place = self._current()
            reading = self._clock.read_after(state.reading)
            if reading.boot != state.reading.boot or reading.elapsed_ns - state.reading.elapsed_ns > _FRESH_NS:
                self._set_mark(Mark(state.at(reading), place), synced=True)
            return self._known.state.reading.at

    def head(self, topic: Topic) -> int:
        _check(topic)
        with self._open:
            return self._counted().state.heads[TOPICS.index(topic)]

    def prune(self, stored: Mapping[Topic, int], keep: timedelta) -> int:
        with self._open, self._lock:
            state, place = self._current()
            state = state.at(self._clock.read_after(state.reading))
            now_ns, keep_ns = state.reading.stamp_ns, keep // timedelta(microseconds=1) * 1000
            opening = self._segments.opening(place.segment)
            full_ns = now_ns - keep_ns // _SEGMENTS_PER_KEEP
            if opening and opening.end < place.position and opening.before.reading.stamp_ns < full_ns:
                self._begin_next(state)
            offsets = stored.get("decisions", 0), stored.get("rewards", 0)
            first, floors = self._segments.removable(state.floors, offsets, now_ns - keep_ns)
            if first:
                self._write(state._replace(floors=floors))
                self._segments.remove_before(first)
            return sum(floors) - sum(state.floors)

    def forget(self, keys: Sequence[str]) -> int:
        wanted, gone = frozenset(keys), 0
        with self._open:
            for segment in self._segments.numbers():
                with self._lock:  # for one at a time: others publish in between
                    gone += self._forget_in(segment, wanted)
            if gone and (asides := sorted(self._folder.glob("damaged-*"))):
                _log.warning("what was set aside may still hold what was forgotten: %s", ", ".join(map(str, asides)))
        return gone

    def close(self) -> None:
        self._open.closed = True
        self._keys.close()
        self._lock.close()
        self._segments.close()

    def _forget_in(self, segment: int, keys: frozenset[str]) -> int:
        """Rewrites the segment without these keys, each frame in its place. Under the lock."""
        known, gone = self._current(), 0
        content = bytearray(self._segments.read(segment))
        for frame in self._segments.counting(known, segment)[0]:
            content[frame.start : frame.end], found = without(frame, keys)
            gone += found
        if gone:
            if segment == known.place.segment:
                del content[known.place.position :]
                self._begin_next(known.state)
            write_atomically(self._segments.path(segment), bytes(content))
            self._keys.write(self._known, segment)
        return gone

    def _standing(self, keys: Sequence[str], known: Mark, missed: Iterable[int] = ()) -> dict[str, Receipt]:
        """What stands under the keys. Under the lock: where damage took one it is named, since it is decided anew."""
        found, more = self._keys.find(keys, known)
        for segment in sorted({*missed, *more}):
            mend(self._segments, known, segment)
        return found

    def _write(self, state: State, counts: Offsets = (0, 0), records: Records = NO_RECORDS) -> Place:
        """One transaction behind what is known: durable, and marked, when it returns where it stands."""
        frame = encode_frame(state, counts, records)
        place = self._segments.append(self._known.place, frame, opening=lambda: encode_opening(state))
        try:
            self._set_mark(Mark(state.behind(counts), Place(place.segment, place.position + len(frame))))
        except OSError:
            self._segments.withdraw(place)
            raise
        return place

    def _begin_next(self, state: State) -> None:
        self._set_mark(Mark(state, self._segments.begin_next(self._known.place, encode_opening(state))))

    def _set_mark(self, mark: Mark, synced: bool = False) -> None:
        self._lock.set_mark(mark, synced)
        self._known = mark

    def _counted(self) -> Mark:
        """How far the journal counts, without the lock where that is possible."""
        mark = self._lock.mark_without_lock()
        if mark is None or mark.state.producer != self.producer:
            with self._lock:
                return self._current()
        return mark

    def _current(self) -> Mark:
        """Where the next frame goes. Under the lock."""
        mark = self._lock.mark() or self._recovered(self._known)
        if mark.state.producer != self.producer:
            raise BusError(f"{self._folder}: another bus took its place while it is in use; start its processes again")
        self._known = mark
        return mark

    def _recovered(self, known: Mark | None) -> Mark:
        """What a process does that begins, or that finds no mark: go to the journal's end, and mark it."""
        marked = self._lock.mark()
        mark = end_of_journal(self._segments, marked, known)
        if mark is None:
            state = State(f"{BUS_PREFIX}{uuid.uuid4()}", (0, 0), (0, 0), self._clock.read_after(Reading(0, 0, "")))
            mark = Mark(state, self._segments.begin_next(Place(0, 0), encode_opening(state)))
        if mark != marked:
            self._segments.sync(mark.place)
            self._lock.set_mark(mark)
        return mark

    def _read_mended(self, topic: Topic, after_offset: int, limit: int) -> list[Delivery]:
        mended = set[int]()
        with self._lock:
            while True:
                known = self._current()
                self._reader.rewind()
                try:
                    return self._reader.deliveries(known, topic, after_offset, limit)
                except Damaged as damage:
                    if damage.segment in mended or not mend(self._segments, known, damage.segment):
                        path = self._segments.path(damage.segment)
                        raise BusError(f"{path}: can't be mended; move the bus's folder away and keep it") from None
                    mended.add(damage.segment)


class _Open:
    """Within it the bus is open, and what the disk refuses is a BusError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.closed = False

    def __enter__(self) -> None:
        if self.closed:
            raise BusError(f"{self._folder}: this bus was closed; open it again")

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, StillLocked):
            raise BusError(str(error)) from error
        if isinstance(error, OSError):
            raise BusError(f"{self._folder}: {explained(error)}") from error


def _check(topic: str) -> None:
    if topic not in TOPICS:
        raise BusError(f"no topic {topic!r}; the topics are {', '.join(TOPICS)}")
