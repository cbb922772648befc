"""Waits and tries again. A loop that does either goes over one of these, and says after it what was waited for in vain.

Where a Google client does the trying, `google.api_core.retry` does it: `rl_core/google_cloud/failures.py`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from rl_core.errors import BanditError

T = TypeVar("T")


def looks(timeout_s: float, pause_s: float, longest_s: float | None = None, *, jitter: bool = False) -> Iterator[float]:
    """Yield the seconds that are left: at once, after each pause, and a last time when none are left (0.0).

    Args:
        pause_s: before the second look; each pause is twice as long as the one before, up to `longest_s`.
        longest_s: default: all pauses are alike.
        jitter: sleep a random part of each pause, so that processes that failed together don't return together.
    """
    deadline = time.monotonic() + timeout_s
    for pause in pauses(pause_s, longest_s, jitter=jitter):
        left = max(0.0, deadline - time.monotonic())
        yield left
        if not left:
            return
        time.sleep(min(left, pause))


def tries(most: int, pause_s: float, longest_s: float | None = None) -> Iterator[int]:
    """Yield how many tries are left after this one: most - 1, …, 0, with pauses as of `looks` with jitter between."""
    for left, pause in zip(reversed(range(most)), pauses(pause_s, longest_s, jitter=True), strict=False):
        yield left
        if left:
            time.sleep(pause)


def pauses(pause_s: float, longest_s: float | None = None, *, jitter: bool = False) -> Iterator[float]:
    """Yield the pauses of `looks` without end, in seconds: for a loop that sleeps in its own way, as asyncio's."""
    while True:
        yield random.uniform(0, pause_s) if jitter else pause_s  # noqa: S311
        pause_s = min(2 * pause_s, pause_s if longest_s is None else longest_s)


def wait_for(ask: Callable[[], T | None], timeout_s: float, what: str, poll_s: float = 0.5) -> T:
    """Ask until the answer is true-like, and return it. Raises BanditError naming what was waited for."""
    for _ in looks(timeout_s, poll_s):
        if answer := ask():
            return answer
    raise BanditError(f"waited {timeout_s:.0f} s in vain for {what}")
