"""The clock of the log's stamps: never goes back, and passes as time passes, whatever is done to the wall clock.

A bus that stamped by the wall clock would take every reward for late after a jump ahead and back, and time every open
decision out at a jump ahead. This clock counts the time that really passed, and follows a wall clock that differs by
running up to a tenth faster or slower, as NTP slews.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SLEW = 10  # one part in ten
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def wall_ns() -> int:
    """Read the wall clock: nanoseconds since 1970, UTC."""
    return time.time_ns()


def elapsed_ns() -> int:
    """Read the nanoseconds since the machine started, counted also while it sleeps where it does so (Linux)."""
    return time.clock_gettime_ns(_SINCE_BOOT)


def boot_id() -> str:
    """Name this start of the machine: `elapsed_ns` can be compared within it. "" where there is no such name."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


class Reading(NamedTuple):
    """A moment on a steady clock: `stamp_ns` since 1970 at `elapsed_ns` of the machine's start `boot`."""

    stamp_ns: int
    elapsed_ns: int
    boot: str

    @property
    def at(self) -> datetime:
        """The stamp, cut to microseconds."""
        return _EPOCH + timedelta(microseconds=self.stamp_ns // 1000)


class SteadyClock:
    """A steady clock, one per program that stamps. Any thread may ask it. All three arguments are for tests."""

    def __init__(
        self,
        wall: Callable[[], int] = wall_ns,
        elapsed: Callable[[], int] = elapsed_ns,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._boot = boot()
        self._last = Reading(wall(), elapsed(), self._boot)
        self._lock = threading.RLock()
        self._told_ns = 0

    def read(self) -> Reading:
        """Read the time now; no later reading comes before it."""
        with self._lock:
            self._last = self._read()
            self._told_ns = max(self._told_ns, self._last.stamp_ns)
            return self._last

    def read_after(self, before: Reading) -> Reading:
        """Read the time now by the one clock of several processes, of which one has read `before` last."""
        with self._lock:
            told_ns = self._told_ns
            self.resume(before)
            reading = self.read()
            if reading.stamp_ns < told_ns:  # another process held the clock back after this one had told the time
                self._last = reading = Reading(told_ns, reading.elapsed_ns, reading.boot)
            return reading

    def _read(self) -> Reading:
        at = self._elapsed()
        passed = max(0, at - self._last.elapsed_ns)
        due, reach = self._last.stamp_ns + passed, passed // _SLEW
        return Reading(min(max(self._wall(), due - reach), due + reach), at, self._boot)

    def resume(self, before: Reading) -> None:
        """Go on from what another process, or this one before a restart, read: all of them are one clock.

        After a restart of the machine nobody knows how much time passed: it goes on from the later of stamp and wall.
        """
        with self._lock:
            if before.boot == self._boot != "":
                self._last = before
            else:
                self._last = Reading(max(before.stamp_ns, self._wall()), self._elapsed(), self._boot)
