"""The message bus: what the server accepts, durable before it answers, until the event logger has read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

Topic = Literal["decisions", "rewards"]


class Message(NamedTuple):
    """An event as the server publishes it. `key` is the event_id: a decision's is accepted once, a reward's repeats.

    `shared` comes before `payload`: what the messages of one request have in common is kept once.
    """

    topic: Topic
    key: str
    payload: bytes
    shared: bytes = b""


class Receipt(NamedTuple):
    """The bus's answer to one message: where it stands, and its `payload`.

    Where `repeated` is true that is the payload of the first decision under the key, which stands, `shared` included.
    """

    offset: int
    received_at: datetime
    payload: bytes
    repeated: bool


class Delivery(NamedTuple):
    """A message as the event logger reads it from the bus, `shared` included."""

    offset: int
    key: str
    payload: bytes
    received_at: datetime


BUS_PREFIX = "bus-"


class Publisher(Protocol):
    """The side of the message bus that the server writes to. Offsets are gap-free from 1 within (producer, topic)."""

    @property
    def producer(self) -> str:
        """The name under which the bus numbers messages.

        It begins with BUS_PREFIX: the joiner times such decisions out by the bus's watermark, a job's never.
        """

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        """Store the messages durably; return a receipt for each, in the same order.

        Raises:
            BusError: none of them counts as accepted; publish them again.
        """

    def now(self) -> datetime:
        """Return the time by the clock of the stamps: later messages have `received_at` >= this. Never waits."""

    def lookup(self, key: str) -> bytes | None:
        """Return the payload of the decision accepted under this key, if this publisher knows of one."""

    def close(self) -> None:
        """Give back what the publisher holds; it can't be used afterwards."""


class MessageBus(Publisher, Protocol):
    """A bus that the event logger reads by offset: the local one. Pub/Sub pushes to the logger function instead."""

    def read(self, topic: Topic, after_offset: int, limit: int = 10_000) -> list[Delivery]:
        """Return the messages after an offset, ascending, `limit` at most.

        Without a gap from the oldest one that is kept; one that was deleted (`forget`), or lost to damage, is empty.
        """

    def watermark(self) -> datetime:
        """Return a time T such that every message with received_at < T is visible to `read` from now on."""

    def head(self, topic: Topic) -> int:
        """Return the last offset given, 0 if none."""

    def prune(self, stored: Mapping[Topic, int], keep: timedelta) -> int:
        """Delete whole segments whose messages are stored, up to these offsets, and older; return how many messages."""

    def forget(self, keys: Sequence[str]) -> int:
        """Delete the messages under these keys for good; return how many. Their offsets are read as empty messages."""


class Sink(Protocol):
    """Takes the messages of a bus that pushes them: Pub/Sub's."""

    def take(self, payload: bytes, attributes: Mapping[str, str], published_at: datetime | None = None) -> str:
        """Put the message where it belongs, and return the table that has it now.

        Args:
            published_at: when the bus took the message.

        Raises:
            StoreError: the store did not take it; deliver the message again.
        """
