"""How far the bus's journal counts, marked in its lock file behind each write.

Who holds the lock may write; readers go as far as the mark says, without the lock. The mark is not synced: after a
power cut it may be an older one.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from rl_core.backends.local.bus.frames import State, encode_frame, frame_at
from rl_core.backends.local.bus.framing import body_at, framed
from rl_core.files import PatientLock

LOCK_FILE = "bus.lock"
_PLACE = struct.Struct("<II")  # segment, position; then a frame without messages, which tells the state
_MARK_BYTES = 512


class Place(NamedTuple):
    """Where the next frame goes, or one begins."""

    segment: int
    position: int


class Mark(NamedTuple):
    state: State
    place: Place


class MarkedLock(PatientLock):
    def __init__(self, folder: Path, timeout_s: float) -> None:
        super().__init__(folder / LOCK_FILE, timeout_s)
        self._seen: tuple[bytes, Mark | None] = (b"", None)

    def mark(self) -> Mark | None:
        """None where the file doesn't tell, or is another one by now. With or without the lock."""
        try:
            content = os.pread(self.descriptor, _MARK_BYTES, 0) if self.is_current() else b""
        except OSError:  # another thread closed it at this moment
            return None
        seen = self._seen
        if content != seen[0]:
            body = body_at(content, 0)
            frame = body and frame_at(body, _PLACE.size)
            mark = Mark(frame.before, Place(*_PLACE.unpack_from(body))) if body and frame else None
            self._seen = seen = content, mark
        return seen[1]

    def set_mark(self, mark: Mark) -> None:
        """Only for who holds the lock."""
        content = framed(_PLACE.pack(*mark.place), encode_frame(mark.state)).ljust(_MARK_BYTES, b"\0")
        os.pwrite(self.descriptor, content, 0)
        self._seen = content, mark
