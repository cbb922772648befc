"""Timing of small pieces of work, and the table that the in-process benchmarks print."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

Row = tuple[str, int, Callable[[], object]]
"""What is measured, how many items one call works on, and the call."""


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """The fastest of `repeats` runs: what the machine can do when nobody else disturbs it."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def print_table(rows: Iterable[Row], repeats: int) -> None:
    print(f"{'what':45} {'per second':>14} {'each':>12}")
    for name, count, work in rows:
        each = best_seconds(work, repeats) / count
        print(f"{name:45} {1 / each:14,.0f} {each * 1e6:9.3f} µs")
