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
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rl_core.backends.contracts.bus import Receipt
from rl_core.backends.local.bus.frames import body_at, decided_in, framed, messages_of
from rl_core.backends.local.bus.mark import Mark, Place
from rl_core.backends.local.bus.segments import LARGEST, Segments
from rl_core.files import sync_folder, write_atomically

_UNIT = 15  # bits of a position within one unit
_UNITS = LARGEST >> _UNIT  # of a segment: a frame begins below LARGEST
_SEGMENTS = 1 << 16  # so many are told apart
_LOW = (1 << 24) - 1  # the bits below those of the hash
_ONE_READ = 1 << 17
_MUCH = 4
_FEW = 4  # keys that are found one by one as fast as together
_U64 = npt.NDArray[np.uint64]
_log = logging.getLogger(__name__)


class Keys:
    """Follows the journal as far as it is told to. Any thread may ask."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._lock = threading.Lock()
        self._young: dict[int, dict[str, int]] = {}  # by segment: the positions of keys that are not in `_full` yet
        self._full: list[_U64] = []  # the entries of full segments: each array ascending, and larger than the next
        self._at: Place | None = None
        self._doubtful: set[int] = set()  # segments that are not whole: keys that stood there are not known any more
        self._sealing = threading.Thread()

    def find(self, keys: Sequence[str], mark: Mark) -> tuple[dict[str, Receipt], set[int]]:
        """What stands under those of the keys that were accepted before the mark; and the segments that had keys once
        which they don't show: they may be damaged, or have had something forgotten."""
        with self._lock:
            if self._at != mark.place:
                self._follow(mark)
            young, full = list(self._young.items()), self._full
            missed, self._doubtful = self._doubtful, set()
        found: dict[str, Receipt] = {}
        for segment, positions in young:
            for key in positions.keys() & keys:
                if not self._take(found, key, segment, positions[key], 1):
                    missed.add(segment)
        for entries in full:
            for key, low in _found_in(entries, keys):
                segment = mark.place.segment - (mark.place.segment - (low >> 8)) % _SEGMENTS
                if not self._take(found, key, segment, low % _UNITS << _UNIT, 1 << _UNIT):
                    missed.add(segment)
        return found, missed

    def add(self, keys: Sequence[str], before: Place, at: Place, after: Place) -> None:
        """What the caller has just written at `at`; the journal ended at `before`, and ends at `after`."""
        with self._lock:
            if self._at == before:  # else another thread has read it there
                self._reach(at.segment).update(dict.fromkeys(keys, at.position))
                self._at = after

    def write(self, mark: Mark, segment: int) -> _U64:
        """Make the file of a full segment's keys from the segment, in place of what there may be."""
        return self._written(segment, self._read(mark, segment), os.replace)

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
        if self._at is None:
            self._load([number for number in self._segments.numbers() if number < mark.place.segment], mark)
            self._at = Place(mark.place.segment, 0)
        while self._at < mark.place:
            segment, start = self._at
            self._reach(segment).update(self._read(mark, segment, start))
            self._at = mark.place if segment == mark.place.segment else Place(segment + 1, 0)

    def _read(self, mark: Mark, segment: int, start: int = 0) -> dict[str, int]:
        frames, whole = self._segments.counting(mark, segment, start)
        if not whole:
            self._doubtful.add(segment)
        return {key: frame.start for frame in frames for key in decided_in(frame)}

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
                together = self._full
                for number in full:
                    together = self._merged(together, self._written(number, self._young[number], os.link))
                with self._lock:
                    self._full = together
                    for number in full:
                        del self._young[number]

    def _merged(self, full: list[_U64], entries: _U64) -> list[_U64]:
        """These as well. An array that is much larger is not made anew; the others lose what is pruned."""
        full = full[:]
        while full and len(full[-1]) < _MUCH * len(entries):
            numbers, there = self._segments.numbers() or [0], full.pop()
            ages = (np.uint64(numbers[-1]) - (there >> np.uint64(8))) % np.uint64(_SEGMENTS)
            entries = np.concatenate([there[ages <= numbers[-1] - numbers[0]], entries])
        entries.sort(kind="stable")  # of few ascending parts
        return [*full, entries] if len(entries) else full

    def _load(self, numbers: list[int], mark: Mark) -> None:
        lowest = numbers[0] if numbers else mark.place.segment
        opening = self._segments.opening(lowest)
        self._doubtful |= set(range(lowest, mark.place.segment)) - set(numbers)  # deleted, and so is a first one
        self._doubtful |= {lowest - 1} if opening and opening.before.heads[0] > mark.state.floors[0] else set()
        for number in numbers:
            if (entries := self._loaded(number)) is None:
                _log.info("%s: making the keys of segment %d", self._segments.folder, number)
                entries = self.write(mark, number)
            self._full = self._merged(self._full, entries)

    def _loaded(self, segment: int) -> _U64 | None:
        try:
            body = body_at(self._segments.path(segment, "keys").read_bytes(), 0)
        except OSError:
            return None
        count = int.from_bytes(body[:4], "little") if body else 0
        keys = body[4 + 4 * count :].decode().split("\n") if body and count else []
        return (
            None
            if body is None or len(keys) != count
            else _entries(segment, keys, np.frombuffer(body, "<u4", count, 4))
        )

    def _written(self, segment: int, its: dict[str, int], put: Callable[[Path, Path], None]) -> _U64:
        positions = np.fromiter(its.values(), "<u4", len(its))
        content = framed(len(its).to_bytes(4, "little"), positions.tobytes(), "\n".join(its).encode())
        if self._segments.path(segment).exists():  # else it was pruned meanwhile
            path = self._segments.path(segment, "keys")
            new = path.with_suffix(f".{uuid.uuid4()}")
            try:
                write_atomically(new, content)
                put(new, path)
                sync_folder(path.parent)  # a new start after a power cut shall not have to read the journal
            except FileExistsError:  # by who has forgotten some of them meanwhile: that one stands
                pass
            except OSError as error:
                _log.info("%s: can't be written, and will be made again: %s", path, error)
            finally:
                new.unlink(missing_ok=True)
        return _entries(segment, list(its), positions)


def _found_in(entries: _U64, keys: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Those of the keys that seem to be there, and the bits below those of the hash."""
    if len(keys) > _FEW:
        wanted = _hashes(keys)
        places = entries.searchsorted(wanted)
        near = (entries.take(places, mode="clip") ^ wanted) <= _LOW
        keys = [keys[i] for i in np.flatnonzero(near).tolist()]
    for key in keys:
        one = hash(key) << 24 & (1 << 64) - 1
        place = bisect_left(entries.data, one)
        while place < len(entries) and (low := int(entries[place]) ^ one) <= _LOW:
            yield key, low
            place += 1


def _entries(segment: int, keys: Sequence[str], positions: npt.NDArray[np.uint32]) -> _U64:
    units = positions.astype(np.uint64) >> np.uint64(_UNIT)
    return np.sort(_hashes(keys) | np.uint64(segment % _SEGMENTS << 8) | units)


def _hashes(keys: Sequence[str]) -> _U64:
    """40 bits of Python's own hash of each, which differs from process to process, above 24 bits of nought."""
    return np.fromiter(map(hash, keys), np.int64, len(keys)).view(np.uint64) << np.uint64(24)
