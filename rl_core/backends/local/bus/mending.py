"""What becomes of a segment that is damaged: the frames that its checksums vouch for stay, the others are named.

A frame of empty messages takes the place of what was lost, so that every offset is delivered, every frame stays where
it is, and whoever reads the segment next finds it whole. The damaged one is kept in `damaged-<time>/`.
"""

from __future__ import annotations

import logging

from rl_core.backends.local.bus.frames import TOPICS, Frame, Offsets, State, encode_frame, records_of_gone
from rl_core.backends.local.bus.mark import Mark
from rl_core.backends.local.bus.segments import Segments
from rl_core.clock import Reading
from rl_core.files import write_atomically

_log = logging.getLogger(__name__)


def mend(segments: Segments, mark: Mark, segment: int) -> bool:
    """Make the segment whole, and say as an error what it lost; False where it is whole. Under the bus's lock."""
    damaged, (frames, _) = segments.read(segment), segments.counting(mark, segment)
    state = _state_before(segments, mark, segment, frames)
    size = mark.place.position if segment == mark.place.segment else len(damaged)
    content, lost = bytearray(), list[tuple[Offsets, Offsets]]()
    for start, heads, frame in [
        *((frame.start, frame.before.heads, frame) for frame in frames),
        (size, _heads_behind(segments, mark, segment), None),
    ]:
        counts = max(0, heads[0] - state.heads[0]), max(0, heads[1] - state.heads[1])
        if start > len(content) or any(counts) or not (content or frame):
            stamp_ns = (frame.before if frame else mark.state).reading.stamp_ns
            gone = state.at(Reading(stamp_ns, 0, ""))  # no longer than what it replaces
            content += encode_frame(gone, counts, records_of_gone(counts), least=start - len(content))
            lost.append((state.heads, counts))
        if frame:
            content += damaged[frame.start : frame.end]
            state = frame.after
    pruned = segment < min(segments.numbers(), default=0) and not any(any(counts) for _, counts in lost)
    if pruned or not lost:
        return False
    kept = segments.set_aside(segment)
    # Named before it is mended: a process that is killed in between leaves it to the next one to find and to name.
    for place, topic in enumerate(TOPICS):
        if spans := [(before[place] + 1, before[place] + counts[place]) for before, counts in lost if counts[place]]:
            _log.error(
                "%s: %d %s of %s are lost, offsets %s, unless the event store has them; the damaged segment is %s",
                segments.path(segment),
                sum(last - first + 1 for first, last in spans),
                topic,
                mark.state.producer,
                ", ".join(f"{first}..{last}" for first, last in spans),
                kept or "gone",
            )
    if not any(any(counts) for _, counts in lost):
        _log.warning("%s: was damaged where it held no message; mended, see %s", segments.path(segment), kept)
    write_atomically(segments.path(segment), bytes(content + damaged[len(content) :]))
    return True


def _state_before(segments: Segments, mark: Mark, segment: int, frames: list[Frame]) -> State:
    """The state that the segment began with."""
    floors = frames[0].before.floors if frames else mark.state.floors
    if frames and frames[0].start == 0:
        return frames[0].before
    for number in reversed([number for number in segments.numbers() if number < segment]):
        if earlier := segments.counting(mark, number)[0]:
            return earlier[-1].after._replace(floors=floors)
    return mark.state._replace(heads=mark.state.floors, floors=floors)


def _heads_behind(segments: Segments, mark: Mark, segment: int) -> Offsets:
    for number in range(segment + 1, mark.place.segment + 1):
        if later := segments.counting(mark, number)[0]:
            return later[0].before.heads
    return mark.state.heads
