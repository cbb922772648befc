"""Where on the bus the decision under a key stands: an index in memory that is built from the journal.

Of a full segment the keys are kept beside it, in `segment-….keys`: a frame of how many there are (u32), the position of
each one's frame (u32 each), and the keys, a line each. Whoever finds that file missing or damaged makes it again;
meanwhile who asks waits. In memory a key of such a segment is one u64: 40 bits of its hash, 16 of its segment and 8 of
the place in it, in units of 32 KiB. The journal itself has the last word: a hit counts when the key is read there.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rl_core.backends.contracts.bus import Receipt
from rl_core.backends.local.bus.frames import frames_in, messages_of
from rl_core.backends.local.bus.framing import body_at, framed
from rl_core.backends.local.bus.mark import Mark, Place
from rl_core.backends.local.bus.segments import LARGEST, Segments
from rl_core.files import write_atomically

_UNIT = 15  # bits of a position within one unit
_UNITS = LARGEST >> _UNIT  # of a segment: a frame begins below LARGEST
_ONE_READ = 1 << 17
_LOW, _HASH = np.uint64(0xFFFFFF), np.uint64(24)
_U64 = npt.NDArray[np.uint64]
_log = logging.getLogger(__name__)


class _Full(NamedTuple):
    """The entries of all full segments, ascending; each tells its segment by the distance from `base`."""

    base: int
    entries: _U64

    def with_segments(self, first: int, new: dict[int, _U64]) -> _Full:
        """These as well, and none before `first`."""
        passed = np.uint64(max(0, first - self.base) * _UNITS)
        kept = self.entries[(self.entries & _LOW) >= passed] - passed
        base = max(first, self.base)
        parts = [its + np.uint64((number - base) * _UNITS) for number, its in new.items() if number >= base]
        entries = np.concatenate([kept, *parts])
        entries.sort(kind="stable")  # of few ascending parts
        return _Full(base, entries)


class Keys:
    """Follows the journal as far as it is told to. Any thread may ask."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._lock = threading.Lock()
        self._young: dict[int, dict[str, int]] = {}  # by segment: the positions of keys that are not in `_full` yet
        self._full = _Full(0, np.empty(0, np.uint64))
        self._at: Place | None = None
        self._doubtful: set[int] = set()  # segments that are not whole: keys that stood there are not known any more
        self._sealing = threading.Thread()

    def find(self, keys: Sequence[str], mark: Mark) -> tuple[dict[str, Receipt], set[int]]:
        """What stands under those of the keys that were accepted before the mark; and the segments that had keys once
        which they don't show: they may be damaged, or have had something forgotten."""
        with self._lock:
            self._follow(mark)
            young, full = list(self._young.items()), self._full
            missed, self._doubtful = self._doubtful, set()
        found: dict[str, Receipt] = {}
        for segment, positions in young:
            for key in positions.keys() & keys:
                if not self._take(found, key, segment, positions[key], 1):
                    missed.add(segment)
        if len(full.entries):
            wanted = _hashes(keys)
            places = np.minimum(full.entries.searchsorted(wanted), len(full.entries) - 1)
            for i in np.flatnonzero((full.entries[places] ^ wanted) <= _LOW).tolist():
                for entry in full.entries[places[i] :]:
                    if (low := int(entry ^ wanted[i])) > int(_LOW):
                        break
                    segment, unit = divmod(low, _UNITS)
                    segment += full.base
                    if not self._take(found, keys[i], segment, unit << _UNIT, 1 << _UNIT):
                        missed.add(segment)
        return found, missed

    def add(self, keys: Sequence[str], before: Place, at: Place, after: Place) -> None:
        """What the caller has just written at `at`; the journal ended at `before`, and ends at `after`."""
        with self._lock:
            if self._at == before:  # else another thread has read it there
                self._reach(at.segment).update(dict.fromkeys(keys, at.position))
                self._at = after

    def write(self, segment: int) -> _U64:
        """Make the file of a full segment's keys from the segment, in place of what there may be."""
        return self._written(segment, self._read(segment, 0, None), os.replace)

    def close(self) -> None:
        if self._sealing.ident is not None:
            self._sealing.join()

    def _take(self, found: dict[str, Receipt], key: str, segment: int, low: int, width: int) -> bool:
        """From a frame that begins within `width` bytes from `low` on; returns whether it is there."""
        size = _ONE_READ
        while True:
            frames = list(self._segments.frames(segment, low, low + width + size))
            if (frames and frames[-1].end >= low + width) or size > 2 * LARGEST:
                break
            size <<= 3  # a frame is longer
        for frame in frames:
            for offset, given, payload in messages_of(frame, "decisions") if frame.start < low + width else ():
                if given == key:
                    found.setdefault(key, Receipt(offset, frame.before.reading.at, payload, repeated=True))
                    return True
        return False

    def _follow(self, mark: Mark) -> None:
        up_to = mark.place
        if self._at is None:
            self._load([number for number in self._segments.numbers() if number < up_to.segment], mark)
            self._at = Place(up_to.segment, 0)
        while self._at < up_to:
            segment, start = self._at
            end = up_to.position if segment == up_to.segment else None
            self._reach(segment).update(self._read(segment, start, end))
            self._at = up_to if end is not None else Place(segment + 1, 0)

    def _read(self, segment: int, start: int, end: int | None) -> dict[str, int]:
        content, found = self._segments.read(segment, start, end), dict[str, int]()
        reached = start
        for frame in frames_in(content, start):
            if frame.start == reached:
                reached = frame.end
            found.update({key: frame.start for _, key, _ in messages_of(frame, "decisions") if key})
        if reached != (start + len(content) if end is None else end) or not reached:
            self._doubtful.add(segment)
        return found

    def _reach(self, segment: int) -> dict[str, int]:
        """The young keys of the segment; those before it are full."""
        if segment not in self._young:
            self._young[segment] = {}
            if len(self._young) > 1 and not self._sealing.is_alive():
                self._sealing = threading.Thread(target=self._seal, name="bus-keys", daemon=True)
                self._sealing.start()
        return self._young[segment]

    def _seal(self) -> None:
        """Beside who publishes: the files of the full segments' keys, and one array of all of them."""
        with suppress(OSError):  # the folder was moved away
            while full := sorted(self._young)[:-1]:
                entries = {number: self._written(number, self._young[number], os.link) for number in full}
                together = self._full.with_segments(min(self._segments.numbers(), default=0), entries)
                with self._lock:
                    self._full = together
                    for number in full:
                        del self._young[number]

    def _load(self, numbers: list[int], mark: Mark) -> None:
        lowest = numbers[0] if numbers else mark.place.segment
        opening = self._segments.opening(lowest)
        self._doubtful |= set(range(lowest, mark.place.segment)) - set(numbers)  # deleted, and so is a first one
        self._doubtful |= {lowest - 1} if opening and opening.before.heads[0] > mark.state.floors[0] else set()
        entries = {number: self._loaded(number) for number in numbers}
        if missing := sum(its is None for its in entries.values()):
            _log.info("%s: making the keys of %d segments", self._segments.folder, missing)
        made = {number: self.write(number) if its is None else its for number, its in entries.items()}
        self._full = self._full.with_segments(min(made, default=0), made)

    def _loaded(self, segment: int) -> _U64 | None:
        try:
            content = self._segments.path(segment, "keys").read_bytes()
        except OSError:
            return None
        body = body_at(content, 0)
        count = int.from_bytes(body[:4], "little") if body else 0
        keys = body[4 + 4 * count :].decode().split("\n") if body and count else []
        if body is None or len(keys) != count:
            return None
        return _entries(keys, np.frombuffer(body, "<u4", count, 4))

    def _written(self, segment: int, its: dict[str, int], put: Callable[[Path, Path], None]) -> _U64:
        positions = np.fromiter(its.values(), "<u4", len(its))
        content = framed(len(its).to_bytes(4, "little"), positions.tobytes(), "\n".join(its).encode())
        if self._segments.path(segment).exists():  # else it was pruned meanwhile
            path = self._segments.path(segment, "keys")
            new = path.with_suffix(f".{uuid.uuid4()}")
            try:
                write_atomically(new, content, durable=False)  # the journal has it
                put(new, path)
            except FileExistsError:  # by who has forgotten some of them meanwhile: that one stands
                pass
            except OSError as error:
                _log.info("%s: can't be written, and will be made again: %s", path, error)
            finally:
                new.unlink(missing_ok=True)
        return _entries(list(its), positions)


def _entries(keys: Sequence[str], positions: npt.NDArray[np.uint32]) -> _U64:
    entries: _U64 = np.sort(_hashes(keys) | positions.astype(np.uint64) >> np.uint64(_UNIT))
    return entries


def _hashes(keys: Sequence[str]) -> _U64:
    """40 bits of Python's own hash of each, which differs from process to process, above 24 bits of nought."""
    return np.fromiter(map(hash, keys), np.int64, len(keys)).view(np.uint64) << _HASH
