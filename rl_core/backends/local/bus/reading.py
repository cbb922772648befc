"""Reads the journal's messages by offset, without the bus's lock, as far as its mark says."""

from __future__ import annotations

from rl_core.backends.contracts.bus import Delivery, Topic
from rl_core.backends.local.bus.frames import TOPICS, Frame, frames_in, messages_of
from rl_core.backends.local.bus.mark import Mark, Place
from rl_core.backends.local.bus.segments import Segments


class Damaged(Exception):
    """The segment is not what was written."""

    def __init__(self, segment: int) -> None:
        super().__init__(segment)
        self.segment = segment


def counting(segments: Segments, mark: Mark, segment: int, start: int = 0) -> list[Frame]:
    """The whole frames from `start` on that belong to this bus and come before its mark."""
    end = mark.place.position if segment == mark.place.segment else None
    return [frame for frame in segments.frames(segment, start, end) if frame.before.producer == mark.state.producer]


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
        offset, place = self._went_on.get(topic, (-1, mark.place))
        if after < head and offset != after:
            place = self._begin(number, after, mark)
        reached = None
        while after < head and len(found) < limit and (reached or after) < head:
            if place.segment > mark.place.segment:
                raise Damaged(mark.place.segment)
            for frame in self._whole(mark, place):
                begin = frame.before.heads[number]
                if begin > after if reached is None else begin != reached:
                    raise Damaged(place.segment - (frame.start == 0))
                reached, at = frame.after.heads[number], frame.before.reading.at
                if reached > after and frame.counts[number]:
                    found += [Delivery(*one, at) for one in messages_of(frame, topic) if one[0] > after]
                place = Place(place.segment, frame.start if len(found) > limit else frame.end)
                if len(found) >= limit:
                    break
            else:
                place = Place(place.segment + 1, 0)
        del found[limit:]
        if place.segment <= mark.place.segment and found:
            self._went_on[topic] = found[-1].offset, place
        return found

    def _whole(self, mark: Mark, place: Place) -> list[Frame]:
        """The segment's frames from `place` on, when they are all there is."""
        segment, reached = place
        end = mark.place.position if segment == mark.place.segment else None
        content = self._segments.read(segment, reached, end)
        frames = [one for one in frames_in(content, reached) if one.before.producer == mark.state.producer]
        if end is None:
            end = reached + len(content)
        for frame in frames:
            if frame.start != reached:
                raise Damaged(segment)
            reached = frame.end
        if reached != end or not end:
            raise Damaged(segment)
        return frames

    def _begin(self, number: int, after: int, mark: Mark) -> Place:
        """The last segment that begins at the offset or before."""
        numbers = [segment for segment in self._segments.numbers() if segment <= mark.place.segment]
        for segment in reversed(numbers):
            if (opening := self._segments.opening(segment)) and opening.before.heads[number] <= after:
                return Place(segment, 0)
        lowest = numbers[0] if numbers else mark.place.segment
        raise Damaged(lowest - 1 if numbers and self._segments.opening(lowest) else lowest)
