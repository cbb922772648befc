"""The message bus's journal: everything it accepted, once more, in append-only files beside the SQLite file.

`journal-00000001.log`, `journal-00000002.log`, …: each is given its room when it is begun, so that a group costs one
write and one fdatasync of data alone, and a full disk is noticed before anything is accepted. Behind the last group lie
zeros. Every method wants the bus's lock to be held.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rl_core.backends.local.journal_files import LARGEST_SEGMENT, SegmentWriter, temporary, write_at, write_synced
from rl_core.backends.local.journal_group import (
    HEAD_BYTES,
    MARK,
    TOPICS,
    Group,
    Place,
    Record,
    State,
    encode_group,
    encode_record,
    group_at,
    group_length,
    groups_in,
)
from rl_core.backends.local.sqlite_errors import JournalDamage
from rl_core.errors import BusError
from rl_core.files import sync_folder

_NAME = re.compile(r"journal-(\d{8})\.log")
_SMALLEST = 1 << 18  # bytes; each segment twice as large as the one before
_LEAST_ROOM = 1 << 16
_RECORDS_PER_GROUP = 500


class Journal:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._prefix = os.fspath(folder / "journal-")
        self._descriptor: int | None = None
        self._identity: os.stat_result | None = None
        self._doubtful = 0  # a segment that refused a write: nothing is appended to it any more

    def path(self, segment: int) -> Path:
        return Path(self._name(segment))

    def segments(self) -> list[int]:
        names = (_NAME.fullmatch(name) for name in os.listdir(self._folder))
        return sorted(int(match[1]) for match in names if match)

    def append(self, group: bytes, place: Place) -> Place:
        """Write the group at `place`, or at the begin of the next segment; durable when it returns where the next goes.

        Raises OSError: then nothing of it will be read.
        """
        room = self._open(place.segment)
        if place.position + len(group) > room or place.segment == self._doubtful:
            if self._descriptor is not None:
                os.ftruncate(self._descriptor, place.position)
            place = Place(place.segment + 1, 0)
            self._begin(place.segment, len(group))
        assert self._descriptor is not None  # noqa: S101
        try:
            write_at(self._descriptor, group, place.position)
            os.fdatasync(self._descriptor)
        except OSError:
            self._doubtful = place.segment
            self.withdraw(place)
            raise
        return Place(place.segment, place.position + len(group))

    def append_to_next(self, place: Place) -> Place:
        """Begin the next segment, empty: the ones before it may be replaced."""
        if self._open(place.segment):
            assert self._descriptor is not None  # noqa: S101
            os.ftruncate(self._descriptor, place.position)
        self._begin(place.segment + 1, 0)
        return Place(place.segment + 1, 0)

    def withdraw(self, place: Place) -> None:
        """What stands at `place`, or began the next segment, was not accepted after all. As well as it can be done."""
        for segment, position in ((place.segment, place.position), (place.segment + 1, 0)):
            try:
                descriptor = os.open(self.path(segment), os.O_WRONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if os.fstat(descriptor).st_size > position:
                    os.pwrite(descriptor, bytes(len(MARK)), position)
            except OSError:
                pass  # then it will be found, and taken for accepted: published again, it is a repeat
            finally:
                os.close(descriptor)

    def following(self, place: Place) -> Iterator[tuple[Group, Place]]:
        """The groups from `place` on, and the place behind each. Raises JournalDamage when it ends before `place`."""
        if self._open(place.segment) < place.position:
            raise JournalDamage(f"{self.path(place.segment).name} ends before the place that was reached")
        while True:
            while self._open(place.segment) and (found := self._group(place.position)):
                group, end = found
                place = Place(place.segment, end)
                yield group, place
            if not os.path.exists(self._name(place.segment + 1)):
                return
            place = Place(place.segment + 1, 0)

    def _group(self, position: int) -> tuple[Group, int] | None:
        assert self._descriptor is not None  # noqa: S101
        length = group_length(os.pread(self._descriptor, HEAD_BYTES, position))
        found = group_at(os.pread(self._descriptor, length, position), 0) if length else None
        return (found[0], position + found[1]) if found else None

    def groups(self, start: Place, last: int | None = None) -> Iterator[tuple[Group, Place]]:
        """Every whole group from `start` to the segment `last`, and the place behind each; skips what is damaged."""
        for segment in self.segments():
            if segment < start.segment or (last is not None and segment > last):
                continue
            content = self.path(segment).read_bytes()
            for _, group, end in groups_in(content, start.position if segment == start.segment else 0):
                yield group, Place(segment, end)

    def audit(self, state: State, most_bytes: int = 1 << 62) -> None:
        """Raises JournalDamage unless every record from the state's floors to its heads is there.

        Args:
            most_bytes: look only at the newest segments, of so many bytes together.
        """
        wanted = [segment for segment in self.segments() if state.first <= segment <= state.place.segment]
        if not wanted or wanted != list(range(state.first, state.place.segment + 1)):
            raise JournalDamage("a file of the journal is missing")
        sizes = {segment: self.path(segment).stat().st_size for segment in wanted}
        if sizes[state.place.segment] < state.place.position:
            raise JournalDamage(f"{self.path(state.place.segment).name} ends before the place that was reached")
        while len(wanted) > 2 and sum(sizes[segment] for segment in wanted) > most_bytes:
            wanted.pop(0)
        reached = list(state.floors) if wanted[0] == state.first else None
        end = Place(0, 0)
        for group, end in self.groups(Place(wanted[0], 0), state.place.segment):
            if group.state.producer != state.producer:
                raise BusError(
                    f"{self._folder}: the journal is of the bus {group.state.producer}, the file of "
                    f"{state.producer}; a folder holds one bus: move one of them away"
                )
            before = [head - count for head, count in zip(group.state.heads, group.counts, strict=True)]
            reached = reached or before
            if any(base > head for base, head in zip(before, reached, strict=True)):
                raise JournalDamage(f"the journal is damaged before {self.path(end.segment).name}:{end.position}")
            reached = [max(pair) for pair in zip(reached, group.state.heads, strict=True)]
        if reached is None or any(head < given for head, given in zip(reached, state.heads, strict=True)):
            raise JournalDamage(f"the journal is damaged behind {self.path(end.segment).name}:{end.position}")

    def first_needed(self, state: State) -> int:
        """The oldest segment that has something which is not pruned; `state` knows what is."""
        for segment in range(state.first, state.place.segment):
            for group, _ in self.groups(Place(segment, 0), segment):
                if any(head > floor for head, floor in zip(group.state.heads, state.floors, strict=True)):
                    return segment
        return state.place.segment

    def write_anew(self, state: State, records: Iterable[Record]) -> State:
        """Segments behind all others that hold these records, ascending in each topic, and end in `state`, which is
        returned with their numbers. What is older may go once that is kept."""
        first = max([*self.segments(), state.place.segment]) + 1
        heads = dict(zip(TOPICS, state.floors, strict=True))
        writer = SegmentWriter(self.path, first)
        part: list[Record] = []

        def put(heads_now: tuple[int, int]) -> None:
            now = state._replace(heads=heads_now, first=first, place=writer.place)
            writer.put(encode_group(now, map(encode_record, part)))
            part.clear()

        for record in records:
            part.append(record)
            heads[record.topic] = record.offset
            if len(part) == _RECORDS_PER_GROUP:
                put((heads["decisions"], heads["rewards"]))
        put(state.heads)
        return state._replace(first=first, place=writer.finish())

    def replace(self, segment: int, content: bytes) -> None:
        """The segment from now on; it must not be the one that is appended to."""
        write_synced(temporary(self.path(segment)), content)
        temporary(self.path(segment)).replace(self.path(segment))
        sync_folder(self._folder)

    def drop(self, segments: Iterable[int], into: Path | None = None) -> None:
        """Delete the segments, or move them to the folder `into`."""
        for segment in segments:
            path = self.path(segment)
            path.replace(into / path.name) if into else path.unlink()

    def clear(self) -> None:
        """Delete what a write that was cut short left behind."""
        for path in self._folder.glob("journal-*.log.new"):
            path.unlink()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._identity = None

    def _name(self, segment: int) -> str:
        return f"{self._prefix}{segment:08d}.log"

    def _open(self, segment: int) -> int:
        """How many bytes the segment has; 0 where it is missing."""
        name = self._name(segment)
        try:
            found = os.stat(name)
            if self._identity is None or not os.path.samestat(found, self._identity):
                self.close()
                self._descriptor = os.open(name, os.O_RDWR | os.O_CLOEXEC)
                self._identity = os.fstat(self._descriptor)
        except FileNotFoundError:
            self.close()
            return 0
        return found.st_size

    def _begin(self, segment: int, least: int) -> None:
        self.close()
        path = self.path(segment)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._identity = os.fstat(self._descriptor)
        room = min(_SMALLEST << min(segment - 1, 16), LARGEST_SEGMENT)
        try:
            try:
                os.posix_fallocate(self._descriptor, 0, max(room, least))
            except OSError:  # almost full: what is left may do
                os.ftruncate(self._descriptor, 0)
                os.posix_fallocate(self._descriptor, 0, least + _LEAST_ROOM)
            sync_folder(self._folder)
        except OSError:
            self.close()
            path.unlink()
            raise
