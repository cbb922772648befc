"""The message bus's clock: one SteadyClock for all its processes, which hand its reading on through the bus's state."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from rl_core.clock import Reading, SteadyClock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def time_of(stamp_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=stamp_us)


def stamp_of(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


class BusClock:
    """Any thread may ask it the time; no stamp is earlier than what it has told before."""

    def __init__(self, clock: SteadyClock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._told_ns = 0

    @property
    def boot(self) -> str:
        """Names this start of the machine; "" where nothing does."""
        return self._clock.boot

    def now(self) -> Reading:
        """A moment that no later stamp comes before."""
        with self._lock:
            return self._tell()

    def after(self, before: Reading) -> Reading:
        """The next stamp of the bus whose last one was `before`."""
        with self._lock:
            self._clock.resume(before)
            told_ns = self._told_ns
            reading = self._tell()
            if reading.stamp_ns < told_ns:  # another process held the clock back after this one had told the time
                reading = Reading(told_ns, reading.elapsed_ns, reading.boot)
                self._clock.resume(reading)
            return reading

    def _tell(self) -> Reading:
        reading = self._clock.read()
        self._told_ns = max(self._told_ns, reading.stamp_ns)
        return reading
