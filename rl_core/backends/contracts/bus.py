"""The message bus: what the server accepts, durable before it answers, until the event logger has read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

Topic = Literal["decisions", "rewards"]


@dataclass(frozen=True)
class Message:
    """What a client of the bus publishes. `key` is the event_id; a decision's key is taken once, a reward's repeats."""

    topic: Topic
    key: str
    payload: bytes


@dataclass(frozen=True)
class Receipt:
    """The bus's answer: where the message stands, and what stands there.

    `payload` differs from what was published where `repeated` is true: the first decision under a key wins.
    """

    offset: int
    received_at: datetime
    payload: bytes
    repeated: bool


@dataclass(frozen=True)
class Delivery:
    offset: int
    key: str
    payload: bytes
    received_at: datetime


BUS_PREFIX = "bus-"


class Publisher(Protocol):
    """The side of the message bus that the server writes to. Offsets are gap-free from 1 within (producer, topic)."""

    @property
    def producer(self) -> str:
        """Begins with BUS_PREFIX: the joiner times such decisions out by the bus's watermark, a job's never."""

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        """All of it is durable when it returns. Raises BusError: none of it counts as accepted; publish it again."""

    def now(self) -> datetime:
        """The time by the clock of the stamps: what is published later has `received_at` >= this. Never waits."""

    def lookup(self, topic: Topic, key: str) -> bytes | None:
        """The payload accepted under this key, if this publisher knows of one."""

    def close(self) -> None: ...


class MessageBus(Publisher, Protocol):
    """A bus that a process reads by offset: the local one. Pub/Sub pushes its messages to the logger function."""

    def read(self, topic: Topic, after_offset: int, limit: int = 10_000) -> list[Delivery]:
        """By offset, from what is kept on without a gap; a message that is gone (`forget`) leaves an empty one."""

    def watermark(self) -> datetime:
        """A time T such that every message with received_at < T is visible to `read` from now on."""

    def head(self, topic: Topic) -> int:
        """The last offset given, 0 if none."""

    def prune(self, topic: Topic, up_to_offset: int, keep_after: datetime) -> int:
        """Forget consumed messages received before `keep_after`; returns how many."""

    def forget(self, keys: Sequence[str]) -> int:
        """Take the messages under these keys away for good; returns how many. Read, their offsets give empty ones."""
