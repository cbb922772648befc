"""Finds the open decisions whose wait is over, without looking at those that are not due yet."""

from __future__ import annotations

from collections.abc import Container
from heapq import heapify, heappop, heappush

_SLACK = 1000


class Deadlines:
    """A heap of event ids by time in µs since 1970; an id may be there twice, and after its decision has closed."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: int, event_id: str) -> None:
        """Add an event id that is due at a time, in µs since 1970."""
        heappush(self._heap, (at, event_id))

    def before(self, passed: int) -> list[str]:
        """Take out the ids that are due before a time."""
        due = []
        while self._heap and self._heap[0][0] < passed:
            due.append(heappop(self._heap)[1])
        return due

    def keep(self, still: Container[str], count: int) -> None:
        """Drop all ids but `still`, once they are many more than the `count` that are still open."""
        if len(self._heap) > 2 * count + _SLACK:
            self._heap = [one for one in self._heap if one[1] in still]
            heapify(self._heap)
