"""The producer: the name under which a process accepts events, how far it got, and when the name ends."""

from __future__ import annotations

import uuid
from datetime import datetime

from rl_core.backends.contracts.bus import BUS_PREFIX, Topic
from rl_core.backends.gcp.bus.messages import Heartbeat
from rl_core.clock import SteadyClock


class Producer:
    """A producer's offsets that Pub/Sub acknowledged. Not thread-safe.

    Attributes:
        announced: a heartbeat without offsets was acknowledged; before that nothing may be published under the name.
    """

    def __init__(self) -> None:
        self.name = f"{BUS_PREFIX}{uuid.uuid4()}"
        self.offsets: dict[Topic, int] = {"decisions": 0, "rewards": 0}
        self.announced = False

    def heartbeat(self, at: datetime, ended: bool = False) -> Heartbeat:
        """Make the heartbeat that states the offsets acknowledged so far."""
        return Heartbeat(self.name, self.offsets["decisions"], self.offsets["rewards"], at, ended)


class Stamps:
    """Gives times that never decrease and pass as time passes, whatever the wall clock does. Thread-safe; never waits.

    Each process begins at its wall clock, so those of a bandit's servers must agree: a decision of one whose reward
    another accepts is waited for longer or shorter by what they differ. Google keeps its machines within milliseconds.
    One that is ahead closes its decisions that much later, one that is behind holds the watermark back; the watermark
    itself is bounded by Pub/Sub's clock, so a wrong one loses nothing.
    """

    def __init__(self, clock: SteadyClock | None = None) -> None:
        self._clock = clock or SteadyClock()

    def take(self) -> datetime:
        """Return the time now."""
        return self._clock.read().at
