"""The files of the bus's journal: `segment-00000001.log`, `segment-00000002.log`, …

Each is given its room when it is begun, so that a frame costs one write and one fdatasync of data alone, and a full
disk is noticed before anything is accepted; it is cut to its length when the next one is begun. A frame that has been
written stays where it is, whatever is done to its segment later. Writing wants the bus's lock to be held.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from rl_core.backends.local.bus.frames import MARK, OPENING_BYTES, Frame, Offsets, frame_at, frames_in
from rl_core.backends.local.bus.mark import Mark, Place
from rl_core.files import drop_oldest, identity, sync_folder, write_atomically

_NAME = re.compile(r"segment-(\d{8})\.log")
_SMALLEST = 1 << 18  # bytes; each segment twice as large as the one before
LARGEST = 1 << 23
_LEAST_ROOM = 1 << 16
_SET_ASIDE = 5
_log = logging.getLogger(__name__)


class Segments:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._prefix = os.fspath(folder / "segment-")
        self._descriptor = -1
        self._opened: tuple[int, int, int] | None = None  # the number of the segment that is open, and which file it is
        self._doubtful = 0  # a segment that refused a write: nothing is appended to it any more

    def numbers(self) -> list[int]:
        names = (_NAME.fullmatch(name) for name in os.listdir(self.folder))
        return sorted(int(match[1]) for match in names if match)

    def path(self, segment: int, suffix: str = "log") -> Path:
        """Of the segment, or of its keys (`segment-….keys`)."""
        return Path(f"{self._prefix}{segment:08d}.{suffix}")

    def read(self, segment: int, start: int = 0, end: int | None = None) -> bytes:
        """Its bytes from `start` to `end`, or to where it ends; none where there is no such file."""
        try:
            with open(self.path(segment), "rb", buffering=0) as file:
                file.seek(start)
                return file.read(-1 if end is None else max(0, end - start))
        except FileNotFoundError:
            return b""

    def opening(self, segment: int) -> Frame | None:
        """The frame that it begins with; None where that is not whole."""
        return frame_at(self.read(segment, 0, OPENING_BYTES), 0) or frame_at(self.read(segment), 0)

    def frames(self, segment: int, start: int = 0, end: int | None = None) -> Iterator[Frame]:
        """Every whole frame from `start` to `end`."""
        return frames_in(self.read(segment, start, end), start)

    def counting(self, mark: Mark, segment: int, start: int = 0) -> tuple[list[Frame], bool]:
        """The whole frames from `start` on that belong to this bus and come before its mark; and whether nothing is
        missing between them."""
        end = mark.place.position if segment == mark.place.segment else None
        content, reached, whole = self.read(segment, start, end), start, True
        frames = [one for one in frames_in(content, start) if one.before.producer == mark.state.producer]
        for frame in frames:
            whole, reached = whole and frame.start == reached, frame.end
        return frames, whole and reached == (start + len(content) if end is None else end) > 0

    def append(self, place: Place, frame: bytes, opening: Callable[[], bytes]) -> Place:
        """Write the frame at `place`, or into the next segment, which begins with `opening`; durable when it returns
        where it stands.

        Raises OSError: then nothing of it will be read.
        """
        if place.position + len(frame) > self._room(place) or place.segment == self._doubtful:
            place = self.begin_next(place, opening(), len(frame))
        try:
            _write_at(self._descriptor, frame, place.position)
            os.fdatasync(self._descriptor)
        except OSError:
            self._doubtful = place.segment
            self.withdraw(place)
            raise
        return place

    def begin_next(self, place: Place, opening: bytes, least: int = 0) -> Place:
        """End the segment at `place`; the next one, for at least so many bytes more, goes on at what is returned."""
        if self._room(place):
            os.ftruncate(self._descriptor, place.position)
        self.close()
        segment, path, least = place.segment + 1, self.path(place.segment + 1), len(opening) + least
        path.unlink(missing_ok=True)  # begun by who died before it counted
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            try:
                os.posix_fallocate(self._descriptor, 0, max(min(_SMALLEST << min(segment - 1, 16), LARGEST), least))
            except OSError:  # almost full: what is left may do
                os.ftruncate(self._descriptor, 0)
                os.posix_fallocate(self._descriptor, 0, least + _LEAST_ROOM)
            _write_at(self._descriptor, opening, 0)
            os.fdatasync(self._descriptor)
            sync_folder(self.folder)
        except OSError:
            self.close()
            path.unlink()
            raise
        self._opened = segment, *identity(os.fstat(self._descriptor))
        return Place(segment, len(opening))

    def withdraw(self, place: Place) -> None:
        """What stands at `place` was not accepted after all. If that can't be written it may be found after a power
        cut, and taken for accepted: published again, it is a repeat."""
        with suppress(OSError):
            os.pwrite(self._descriptor, bytes(len(MARK)), place.position)

    def sync(self, place: Place) -> None:
        """All of its segment is on disk, whoever wrote it."""
        if self._room(place):
            os.fdatasync(self._descriptor)

    def removable(self, floors: Offsets, stored: Offsets, before_ns: int) -> tuple[int, Offsets]:
        """The first segment to keep (0: all), and the last offsets before it: those are stored, and were full by
        then."""
        first = 0
        for segment in self.numbers()[1:]:
            opening = self.opening(segment)
            if opening is None or opening.before.reading.stamp_ns > before_ns:
                break
            if any(head > offset for head, offset in zip(opening.before.heads, stored, strict=True)):
                break
            first, floors = segment, opening.before.heads
        return first, floors

    def remove_before(self, segment: int) -> None:
        for number in self.numbers():
            if number < segment:
                self.path(number, "keys").unlink(missing_ok=True)
                self.path(number).unlink(missing_ok=True)

    def set_aside(self, segment: int) -> Path | None:
        """Give a damaged segment a second name for a person to look at; returns that, None where there is no file."""
        path = self.path(segment)
        if not path.exists():
            return None
        folder = self.folder / f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        folder.mkdir()
        os.link(path, folder / path.name)
        drop_oldest(self.folder, "damaged-*", _SET_ASIDE)
        return folder / path.name

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._opened = -1, None

    def _room(self, place: Place) -> int:
        """How many bytes its segment has, which is open then; 0 where it is missing."""
        name = f"{self._prefix}{place.segment:08d}.log"
        try:
            found = os.stat(name)
        except FileNotFoundError:
            if self._opened is None or self._opened[0] != place.segment:
                return 0
            _log.warning("%s was deleted while it is in use, and is written again", name)
            write_atomically(Path(name), os.pread(self._descriptor, place.position, 0))
            found = os.stat(name)
        if self._opened != (place.segment, *identity(found)):
            self.close()
            self._descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            self._opened = place.segment, *identity(os.fstat(self._descriptor))
        return found.st_size


def _write_at(descriptor: int, content: bytes, position: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written
