"""A machine whose clocks a test sets."""

from __future__ import annotations

from dataclasses import dataclass

from rl_core.clock import SteadyClock

SECOND = 10**9
START = 1_800_000_000 * SECOND


@dataclass
class Machine:
    """`wall` in nanoseconds since 1970, `up` since it was started, `boot` names that start."""

    wall: int = START
    up: int = 100 * SECOND
    boot: str = "first"

    def clock(self) -> SteadyClock:
        """Of one more process."""
        return SteadyClock(lambda: self.wall, lambda: self.up, lambda: self.boot)

    def passes(self, seconds: float) -> None:
        self.wall += int(seconds * SECOND)
        self.up += int(seconds * SECOND)

    def jumps(self, seconds: float) -> None:
        self.wall += int(seconds * SECOND)
