"""Reads the journal's messages by offset, without the bus's lock, as far as its mark says."""

from __future__ import annotations

from rl_core.backends.contracts.bus import Delivery, Topic
from rl_core.backends.local.bus.frames import TOPICS, messages_of
from rl_core.backends.local.bus.mark import Mark, Place
from rl_core.backends.local.bus.segments import Segments


class Damaged(Exception):
    """The segment is not what was written."""

    def __init__(self, segment: int) -> None:
        super().__init__(segment)
        self.segment = segment


class Reader:
    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self.rewind()

    def rewind(self) -> None:
        """Where it went on may lie within what was mended."""
        self._went_on: dict[Topic, tuple[int, Place]] = {}  # an offset, and where what comes behind it stands

    def deliveries(self, mark: Mark, topic: Topic, after: int, limit: int) -> list[Delivery]:
        """What stands behind the offset, from what is not pruned on. Raises Damaged."""
        number, found = TOPICS.index(topic), list[Delivery]()
        after, head = max(after, mark.state.floors[number]), mark.state.heads[number]
        if after >= head or limit < 1:
            return found
        offset, place = self._went_on.get(topic, (-1, mark.place))
        segment, start = behind = place if offset == after else self._begin(number, after, mark)
        reached = None  # the offset that the next frame begins behind
        while len(found) < limit and (reached or after) < head:
            frames, whole = self._segments.counting(mark, segment, start)
            if not whole or segment > mark.place.segment:
                raise Damaged(min(segment, mark.place.segment))
            for frame in frames:
                begins = frame.before.heads[number]
                if begins > after if reached is None else begins != reached:
                    raise Damaged(segment - (frame.start == 0))
                reached, at = frame.after.heads[number], frame.before.reading.at
                if reached > after and frame.counts[number]:
                    found += [Delivery(*one, at) for one in messages_of(frame, topic) if one[0] > after]
                behind = Place(segment, frame.start if len(found) > limit else frame.end)
                if len(found) >= limit:
                    break
            segment, start = segment + 1, 0
        del found[limit:]
        self._went_on[topic] = found[-1].offset, behind
        return found

    def _begin(self, number: int, after: int, mark: Mark) -> Place:
        """The last segment that begins at the offset or before."""
        numbers = [segment for segment in self._segments.numbers() if segment <= mark.place.segment]
        for segment in reversed(numbers):
            if (opening := self._segments.opening(segment)) and opening.before.heads[number] <= after:
                return Place(segment, 0)
        lowest = numbers[0] if numbers else mark.place.segment
        raise Damaged(lowest - 1 if numbers and self._segments.opening(lowest) else lowest)
