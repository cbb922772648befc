"""Writing the journal's files: whole and synced, under their names only at the end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rl_core.backends.local.journal_group import Place
from rl_core.files import sync_folder

LARGEST_SEGMENT = 1 << 24  # bytes


class SegmentWriter:
    """Writes segments under temporary names, and gives them their names at the end."""

    def __init__(self, name: Callable[[int], Path], first: int) -> None:
        self._name = name
        self._first = first
        self._content = bytearray()
        self.place = Place(first, 0)

    def put(self, group: bytes) -> None:
        if self._content and len(self._content) + len(group) > LARGEST_SEGMENT:
            self._flush()
            self.place = Place(self.place.segment + 1, 0)
        self._content += group
        self.place = Place(self.place.segment, len(self._content))

    def finish(self) -> Place:
        self._flush()
        for segment in range(self._first, self.place.segment + 1):
            temporary(self._name(segment)).replace(self._name(segment))
        sync_folder(self._name(self._first).parent)
        return self.place

    def _flush(self) -> None:
        write_synced(temporary(self._name(self.place.segment)), bytes(self._content))
        self._content.clear()


def temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_at(descriptor, content, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, content: bytes, position: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written
