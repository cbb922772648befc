"""The event logger: carries decisions and rewards from the message bus into the event store, and joins them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import orjson

from rl_core.backends import open_backend
from rl_core.backends.bus_rows import rows_of
from rl_core.backends.contracts.bus import MessageBus, Topic
from rl_core.backends.contracts.store import JoinableStore
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError, StoreError
from rl_core.files import write_atomically
from rl_core.monitoring.metrics_file import MetricsFile

STATE_FILE = "logger.json"
_POLL_S = 0.25
_HEARTBEAT_S = 2.0
_PRUNE_EVERY_S = 60.0
_RETIRE_EVERY_S = 3600.0
_LONGEST_PAUSE_S = 10.0
_BATCH = 10_000
_TOPICS: tuple[Literal["decisions", "rewards"], ...] = ("decisions", "rewards")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cycle:
    """What one cycle did: rows that were new in the store, rows joined or set apart, and where the log stands."""

    decisions: int
    rewards: int
    interactions: int
    apart: int
    head: int
    open: int

    def __bool__(self) -> bool:
        return bool(self.decisions or self.rewards or self.interactions or self.apart)

    def __str__(self) -> str:
        return (
            f"+{self.decisions} decisions, +{self.rewards} rewards; {self.interactions} joined, "
            f"{self.apart} rewards set apart; head {self.head}, {self.open} open"
        )


class EventLogger:
    """One bandit's logger; any number may run at once, since what one has stored, the others drop.

    A message that can't be a row of the log becomes a dead letter in `rejected_events`; nothing waits for it.
    """

    def __init__(self, bandit: Bandit, bus: MessageBus, store: JoinableStore) -> None:
        self._bus = bus
        self._store = store
        self._joiner = store.joiner(bandit)
        self._retention = bandit.retention

    def run_once(self) -> Cycle:
        """Store everything that the bus had accepted when this was called, and join it as far as its time came.

        Raises:
            BusError, StoreError: try again; what was done stays done.
        """
        watermark = self._bus.watermark()
        decisions, rewards = (self._carry(topic) for topic in _TOPICS)
        run = self._joiner.run(watermark)
        return Cycle(decisions, rewards, run.interactions, run.apart, run.head, run.open)

    def _carry(self, topic: Literal["decisions", "rewards"]) -> int:
        producer, target = self._bus.producer, self._bus.head(topic)
        done, new = self._store.last_offset(topic, producer), 0
        if done > target:
            raise StoreError(
                f"the store holds {topic} up to offset {done} of {producer}, but this bus ends at {target}: it is an "
                "older copy. Move its folder away; a new one takes another name"
            )
        while done < target:
            deliveries = self._bus.read(topic, done, _BATCH)
            if not deliveries:
                raise StoreError(
                    f"{topic} {done + 1}..{target} are gone from the bus {producer} before they were stored"
                )
            aside = rows_of(topic, deliveries, producer)
            rows, rejected = aside.pop(topic), aside["rejected_events"]
            if rejected.num_rows:
                first = rejected["reason"][0].as_py()
                _log.error("%d rejected, see the table rejected_events; the first: %s", rejected.num_rows, first)
            new += self._store.append(topic, rows, aside)
            done = deliveries[-1].offset
        return new

    def prune(self) -> int:
        """Delete from the bus what is stored and older than retention.bus_hours; return how many messages."""
        offsets: dict[Topic, int] = {topic: self._store.last_offset(topic, self._bus.producer) for topic in _TOPICS}
        return self._bus.prune(offsets, timedelta(hours=self._retention.bus_hours))

    def retire(self) -> dict[str, int]:
        """Delete raw rows older than retention.raw_log_days; return how many of each table."""
        days = self._retention.raw_log_days
        return {} if days is None else dict(self._store.retire(datetime.now(UTC) - timedelta(days=days)))

    def state(self) -> dict[str, Any]:
        """Return the offsets stored, and how many messages the bus has beyond them (the backlog)."""
        offsets = {topic: self._store.last_offset(topic, self._bus.producer) for topic in _TOPICS}
        lag = {topic: self._bus.head(topic) - offset for topic, offset in offsets.items()}
        return {"producer": self._bus.producer, "offsets": offsets, "lag": lag, "head": self._store.head()}


def drain(bandit: Bandit, settings: Settings) -> Cycle:
    """Run one cycle by hand: all that was acknowledged is in the store when this returns. A daemon may run as well."""
    bus = open_backend(bandit, settings).bus()
    try:
        return EventLogger(bandit, bus, cast(JoinableStore, open_backend(bandit, settings).store())).run_once()
    finally:
        bus.close()


def main(bandit: Bandit, settings: Settings) -> int:
    """Log until SIGTERM or SIGINT, which let the cycle end; return the exit status.

    In the state folder, `logger.json` shows how the logger does, and `metrics.prom` how the log is.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    bus = open_backend(bandit, settings).bus()
    try:
        store = cast(JoinableStore, open_backend(bandit, settings).store())
        daemon = _Daemon(EventLogger(bandit, bus, store), settings.state_dir(bandit) / STATE_FILE)
        metrics = MetricsFile(bandit, settings, bus, store)
        _log.info("%s: logging from %s", bandit.name, bus.producer)
        while not stop.is_set():
            pause = daemon.cycle()
            metrics.keep()
            stop.wait(pause)
        daemon.note(stopped=True)
    finally:
        bus.close()
    return 0


class _Daemon:
    """Cycles that outlive errors: each failure is said, and tried again after a longer pause."""

    def __init__(self, event_logger: EventLogger, state_file: Path) -> None:
        self._event_logger = event_logger
        self._state_file = state_file
        self._pause = _POLL_S
        self._noted = self._pruned = -_PRUNE_EVERY_S
        self._retired = -_RETIRE_EVERY_S
        self._started_at = datetime.now(UTC)

    def cycle(self) -> float:
        """Returns the seconds to wait before the next."""
        try:
            done = self._event_logger.run_once()
            if done:
                _log.info("%s", done)
            if done or time.monotonic() - self._noted > _HEARTBEAT_S:
                self.note()
            if time.monotonic() - self._pruned > _PRUNE_EVERY_S:
                self._event_logger.prune()
                self._pruned = time.monotonic()
            if time.monotonic() - self._retired > _RETIRE_EVERY_S:
                self._retire()
            self._pause = _POLL_S
        except Exception as error:  # whatever it is, the bus holds on to the messages and the next cycle tries again
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
            _log.error("%s; trying again in %.1f s", error, self._pause, exc_info=not isinstance(error, BanditError))
            self.note(error=str(error))
        return self._pause

    def _retire(self) -> None:
        gone = {table: rows for table, rows in self._event_logger.retire().items() if rows}
        if gone:
            _log.info("deleted by age: %s", ", ".join(f"{rows} {table}" for table, rows in gone.items()))
        self._retired = time.monotonic()

    def note(self, stopped: bool = False, error: str | None = None) -> None:
        known = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_at": self._started_at,
            "at": datetime.now(UTC),
        }
        self._noted = time.monotonic()
        try:
            state = {**known, "stopped": stopped, "error": error} | ({} if error else self._event_logger.state())
            write_atomically(self._state_file, orjson.dumps(state, option=orjson.OPT_INDENT_2))
        except (BanditError, OSError) as failure:
            _log.error("%s can't be written: %s", self._state_file, failure)
