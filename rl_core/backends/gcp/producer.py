"""The name under which a process accepts events, how far it got, and when the name ends."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from rl_core.backends.base import BUS_PREFIX, Topic
from rl_core.backends.gcp.event_messages import Heartbeat

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class Producer:
    """Offsets that Pub/Sub acknowledged. Not thread-safe.

    Attributes:
        announced: a heartbeat without offsets was acknowledged; before that nothing may be published under the name.
    """

    def __init__(self) -> None:
        self.name = f"{BUS_PREFIX}{uuid.uuid4()}"
        self.offsets: dict[Topic, int] = {"decisions": 0, "rewards": 0}
        self.announced = False

    def heartbeat(self, at: datetime, ended: bool = False) -> Heartbeat:
        return Heartbeat(self.name, self.offsets["decisions"], self.offsets["rewards"], at, ended)


class Stamps:
    """Times that never decrease, whatever the clock does."""

    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        self._clock = clock
        self._last = 0

    def take(self) -> datetime:
        self._last = max(self._last, self._clock())
        return _EPOCH + timedelta(microseconds=self._last)
