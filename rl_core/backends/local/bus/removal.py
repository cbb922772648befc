"""Takes messages away for good: whole segments that are stored and old, and those under some keys."""

from __future__ import annotations

from rl_core.backends.local.bus.frames import Offsets, without
from rl_core.backends.local.bus.mark import Mark
from rl_core.backends.local.bus.reading import counting
from rl_core.backends.local.bus.segments import Segments


def removable(segments: Segments, mark: Mark, stored: Offsets, before_ns: int) -> tuple[int, Offsets]:
    """The first segment to keep (0: all), and the last offsets before it: those are stored, and were full by then."""
    first, floors = 0, mark.state.floors
    for segment in segments.numbers()[1:]:
        opening = segments.opening(segment)
        if opening is None or opening.before.reading.stamp_ns > before_ns:
            break
        if any(head > offset for head, offset in zip(opening.before.heads, stored, strict=True)):
            break
        first, floors = segment, opening.before.heads
    return first, floors


def forget_in(segments: Segments, mark: Mark, segment: int, keys: frozenset[str]) -> tuple[int, bytes]:
    """How many messages under these keys the segment has, and its bytes without them: each frame stays in its place."""
    content, gone = bytearray(segments.read(segment)), 0
    for frame in counting(segments, mark, segment):
        content[frame.start : frame.end], found = without(frame, keys)
        gone += found
    return gone, bytes(content[: mark.place.position] if segment == mark.place.segment else content)
