"""How far the bus's journal counts, marked in its lock file behind each write.

Who holds the lock may write; readers go as far as the mark says, without the lock. The mark is not synced behind a
write: after a power cut it may be an older one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from rl_core.backends.local.bus.frames import State, body_at, framed, state_of
from rl_core.files import PatientLock

LOCK_FILE = "bus.lock"
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
        """For who holds the lock. None where the file doesn't tell."""
        content, seen = os.pread(self.descriptor, _MARK_BYTES, 0), self._seen
        if content != seen[0]:
            mark = None
            if (body := body_at(content, 0)) is not None and body.endswith(b"]"):  # else an earlier version's
                segment, position, *state = json.loads(body)
                mark = Mark(state_of(*state), Place(segment, position))
            self._seen = seen = content, mark
        return seen[1]

    def mark_without_lock(self) -> Mark | None:
        """None also where the file is another one by now."""
        try:
            return self.mark() if self.is_current() else None
        except OSError:  # another thread closed it at this moment
            return None

    def set_mark(self, mark: Mark, synced: bool = False) -> None:
        """For who holds the lock."""
        segment, position = mark.place
        content = framed(f"[{segment},{position},{mark.state.line()}]".encode()).ljust(_MARK_BYTES, b"\0")
        os.pwrite(self.descriptor, content, 0)
        if synced:
            os.fdatasync(self.descriptor)
        self._seen = content, mark
