"""The message bus on Pub/Sub: what a server accepts, in one topic. Why names end: docs/decisions/0008.

Promises: what `publish` returned is acknowledged by Pub/Sub; (producer, offset) is never given to two events; the
acknowledged events of a producer are gap-free from 1 within each topic; `received_at` never decreases within a process,
and passes as time passes, whatever the wall clock does.
Of several decisions under one key the first stands within a process, as long as it is remembered; between processes
the joiner decides: the first by (received_at, producer, offset) is the one that counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rl_core.backends.contracts.bus import BUS_PREFIX, Message, Receipt
from rl_core.backends.gcp.bus.first_payloads import FirstPayloads, Standing
from rl_core.backends.gcp.bus.messages import KINDS, Event, Heartbeat
from rl_core.backends.gcp.bus.producer import Producer, Stamps
from rl_core.backends.gcp.bus.topic import EventsTopic, requests
from rl_core.clock import SteadyClock
from rl_core.errors import BanditError, BusError

if TYPE_CHECKING:
    from rl_core.google_cloud.clients import GoogleClients

JOINER = f"{BUS_PREFIX}joiner"
HEARTBEAT_S = 5.0
IDLE_S = 60.0
_JOINER_DEADLINE_S = 30.0
_FAREWELLS = 1000
_log = logging.getLogger(__name__)


class PubSubPublisher:
    """`Publisher` on Pub/Sub: requests go out one after the other; a thread sends the heartbeats.

    Starting it does not wait.

    Args:
        deadline_s: for each request; default: serving.publish_deadline_s.
        heartbeat_s: between the heartbeats of a name.
        idle_s: a name under which nothing was accepted for so long ends, so that it can't hold the joiner up.
        clock: of the stamps, and of `now`.
    """

    def __init__(
        self,
        clients: GoogleClients,
        deadline_s: float | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        idle_s: float = IDLE_S,
        clock: SteadyClock | None = None,
    ) -> None:
        deadline = clients.bandit.serving.publish_deadline_s if deadline_s is None else deadline_s
        self._topic = EventsTopic(clients, deadline)
        self._heartbeat_s = heartbeat_s
        self._idle_s = idle_s
        self._stamps = Stamps(clock)
        self._first = FirstPayloads()
        self._lock = threading.Lock()  # of the three below; held while a request with events is under way
        self._current = Producer()
        self._farewells: deque[Heartbeat] = deque(maxlen=_FAREWELLS)
        self._accepted_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeats", daemon=True)
        self._thread.start()

    @property
    def producer(self) -> str:
        return self._current.name

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        for message in messages:
            if message.topic not in KINDS:
                raise BusError(f"no topic {message.topic!r}; the topics are {', '.join(KINDS)}")
        if not messages:
            return []
        with self._lock:
            if self._stop.is_set():
                raise BusError("this publisher was closed; open another one")
            return self._accept([one._replace(payload=one.shared + one.payload, shared=b"") for one in messages])

    def now(self) -> datetime:
        return self._stamps.take()

    def lookup(self, key: str) -> bytes | None:
        """Return what a repeat of this decision would publish, if this process remembers it. Never waits."""
        standing = self._first.get(key)
        return None if standing is None else standing.payload

    def close(self) -> None:
        """Send a last heartbeat: what was accepted has these offsets, and nothing follows under this name."""
        with self._lock:
            self._stop.set()
        self._thread.join()
        with self._lock:
            self._end()
        self._send_heartbeats([])

    def _accept(self, messages: Sequence[Message]) -> list[Receipt]:
        stamp = self._stamps.take()
        receipts: dict[str | int, Receipt] = {}  # a decision's by its key, a reward's by its place
        fresh: dict[str | int, Message] = {}
        for i, message in enumerate(messages):
            place = _place(i, message)
            if message.topic == "decisions" and place not in fresh:
                standing = self._first.get(message.key)
                if standing is not None and standing.receipt is not None:
                    receipts[place] = standing.receipt
                    continue
                fresh[place] = message if standing is None else message._replace(payload=standing.payload)
                self._first.put(message.key, Standing(fresh[place].payload, None))
            fresh.setdefault(place, message)
        repeated = dict.fromkeys(receipts, True)
        self._send(fresh, stamp, receipts)
        answers = []
        for i, message in enumerate(messages):
            place = _place(i, message)
            receipt = receipts[place]
            again = repeated.setdefault(place, False) or receipt.payload != message.payload
            answers.append(receipt._replace(repeated=again))
            repeated[place] = message.topic == "decisions"
        return answers

    def _send(self, fresh: dict[str | int, Message], stamp: datetime, receipts: dict[str | int, Receipt]) -> None:
        if not fresh:
            return
        producer = self._current
        if not producer.announced:  # with its own request: while Pub/Sub is away no name is used up
            self._topic.send([producer.heartbeat(stamp).event])
            producer.announced = True
        given = dict(producer.offsets)
        places: list[str | int] = []
        events: list[Event] = []
        for place, message in fresh.items():
            given[message.topic] += 1
            places.append(place)
            events.append(
                Event(KINDS[message.topic], producer.name, given[message.topic], stamp, message.key, message.payload)
            )
        start = 0
        for request in requests(events):
            try:
                self._topic.send(request)
            except BaseException:
                self._end()
                raise
            self._accepted_at = time.monotonic()
            for place, event in zip(places[start : start + len(request)], request, strict=True):
                receipt = receipts[place] = Receipt(event.offset, stamp, event.payload, repeated=False)
                message = fresh[place]
                producer.offsets[message.topic] = event.offset
                if message.topic == "decisions":
                    self._first.put(message.key, Standing(event.payload, receipt))
            start += len(request)

    def _end(self) -> None:
        """What comes next comes under another name."""
        if self._current.announced:
            self._farewells.append(self._current.heartbeat(self._stamps.take(), ended=True))
            self._current = Producer()

    def _beat(self) -> None:
        try:
            self._topic.connect()
        except BanditError as error:
            _log.error("%s", error)
        while not self._stop.wait(self._heartbeat_s):
            with self._lock:
                if time.monotonic() - self._accepted_at > self._idle_s:
                    self._end()
                live = self._current
                heartbeats = [live.heartbeat(self._stamps.take())] if live.announced else []
            self._send_heartbeats(heartbeats)

    def _send_heartbeats(self, heartbeats: Sequence[Heartbeat]) -> None:
        with self._lock:
            farewells = list(self._farewells)
        due = [*farewells, *heartbeats]
        if not due:
            return
        try:
            self._topic.send([heartbeat.event for heartbeat in due])
        except BusError as error:
            _log.warning("heartbeats of %s were not sent: %s", due[-1].producer, error)
        else:
            with self._lock:
                for farewell in farewells:
                    if farewell in self._farewells:
                        self._farewells.remove(farewell)


def _place(i: int, message: Message) -> str | int:
    return message.key if message.topic == "decisions" else i


def publish_joiner_heartbeat(clients: GoogleClients) -> datetime:
    """Send the joiner's own heartbeat; return its time.

    Once it is in the store, the bus has delivered what was published long before it.

    Raises:
        BusError: Pub/Sub did not take it.
    """
    at = datetime.now(UTC)
    EventsTopic(clients, _JOINER_DEADLINE_S).send([Heartbeat(JOINER, 0, 0, at).event])
    return at
