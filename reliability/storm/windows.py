"""Whether every interaction was trained on once: the windows of every attempt and of every policy's lineage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.backends.contracts.store import Window
from rl_core.policy.windows import new_windows


def overlaps(windows: Iterable[Window]) -> int:
    """How many windows begin before the one below them ends."""
    return sum(after[0] < before[1] for before, after in pairwise(sorted(windows)))


def gaps(windows: Sequence[Window], high: int) -> int:
    """How many holes are left in (0, high]."""
    at, found = 0, 0
    for low, end in sorted(windows):
        found += low > at
        at = max(at, end)
    return found + (at < high)


def check(registry: PolicyRegistry, head: int) -> tuple[int, int]:
    """(overlapping, with gaps), over the attempts and over each policy's counted and excluded windows.

    What is new now belongs to the log as well: attempts and new windows together are (0, head].
    """
    attempted = [window for attempt in registry.attempts() for window in attempt.windows]
    overlapping = overlaps(attempted)
    holes = gaps([*attempted, *new_windows(registry, head)], head)
    for version in registry.versions():
        lineage = registry.lineage(version)
        spans = [(ref.seq_low, ref.seq_high) for ref in lineage.windows]
        spans += [(exclusion.seq_low, exclusion.seq_high) for exclusion in lineage.excluded]
        overlapping += overlaps(spans)
        holes += gaps(spans, max((high for _, high in spans), default=0))
    return overlapping, holes
