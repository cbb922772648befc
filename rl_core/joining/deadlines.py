"""When open decisions close of themselves: asked at every poll, so what is not due yet is not looked at."""

from __future__ import annotations

from collections.abc import Container
from heapq import heapify, heappop, heappush

_SLACK = 1000


class Deadlines:
    """Event ids by their times in microseconds. An id may be there more than once, and after it has closed."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at: int, event_id: str) -> None:
        heappush(self._heap, (at, event_id))

    def before(self, passed: int) -> list[str]:
        """Takes out those that are due."""
        due = []
        while self._heap and self._heap[0][0] < passed:
            due.append(heappop(self._heap)[1])
        return due

    def keep(self, still: Container[str], count: int) -> None:
        """Drop the others, once they are more than the `count` that are still open."""
        if len(self._heap) > 2 * count + _SLACK:
            self._heap = [one for one in self._heap if one[1] in still]
            heapify(self._heap)
