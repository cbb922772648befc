"""Group commit: one thread writes to the message bus, and what arrives during one transaction shares the next."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from rl_core.backends.contracts.bus import Message, Publisher, Receipt
from rl_core.errors import BusError

_log = logging.getLogger(__name__)
MESSAGES_PER_TRANSACTION = 4096
MESSAGES_WAITING = 65_536


@dataclass(frozen=True, slots=True)
class _Entry:
    messages: Sequence[Message]
    receipts: asyncio.Future[list[Receipt]]


class GroupCommit:
    """Publishes to the message bus for one event loop, to which `submit` and its futures belong.

    Args:
        too_late: called on that loop with what the bus took when nobody waited for it any more.
    """

    def __init__(self, bus: Publisher, too_late: Callable[[Sequence[Message]], None] = lambda messages: None) -> None:
        self._bus = bus
        self._too_late = too_late
        self._queue: SimpleQueue[list[_Entry] | None] = SimpleQueue()
        self._gathered: list[_Entry] = []
        self._loop = asyncio.get_running_loop()
        self.waiting = 0
        self.last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    def submit(self, messages: Sequence[Message]) -> asyncio.Future[list[Receipt]]:
        """Queue messages for the next transaction; the future gives their receipts, or BusError.

        Cancelling the future withdraws what has not reached a transaction yet.
        """
        future: asyncio.Future[list[Receipt]] = self._loop.create_future()
        if self.waiting + len(messages) > MESSAGES_WAITING:
            self.last_error = f"{self.waiting} events wait for the message bus already; try again later"
            future.set_exception(BusError(self.last_error))
            return future
        self.waiting += len(messages)
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(_Entry(messages, future))
        return future

    def _hand_over(self) -> None:
        """Once per turn of the event loop: the writer is woken for all of it, and finds larger groups."""
        self._queue.put(self._gathered)
        self._gathered = []

    def close(self) -> None:
        """Write what was submitted, then end the thread. Blocks; not for the event loop's thread while it serves."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            live = [entry for entry in group if not entry.receipts.cancelled()]
            outcome: list[Receipt] | BusError
            try:
                outcome = self._bus.publish([message for entry in live for message in entry.messages])
            except BusError as error:
                outcome = error
            except Exception as error:
                _log.exception("the message bus failed in a way it does not promise")
                outcome = BusError(f"the message bus failed: {type(error).__name__}: {error}")
            try:
                self._loop.call_soon_threadsafe(self._settle, group, live, outcome)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _next_group(self) -> list[_Entry]:
        """At least one entry and what else is there; empty at the end."""
        group: list[_Entry] = []
        try:
            gathered = self._queue.get()
            while gathered is not None:
                group += gathered
                if sum(len(entry.messages) for entry in group) >= MESSAGES_PER_TRANSACTION:
                    return group
                gathered = self._queue.get_nowait()
            if group:
                self._queue.put(None)
        except Empty:
            pass
        return group

    def _settle(self, group: list[_Entry], live: list[_Entry], outcome: list[Receipt] | BusError) -> None:
        self.waiting -= sum(len(entry.messages) for entry in group)
        self.last_error = str(outcome) if isinstance(outcome, BusError) else None
        start = 0
        for entry in live:
            end = start + len(entry.messages)
            if entry.receipts.cancelled() and not isinstance(outcome, BusError):
                self._too_late(entry.messages)
            elif not entry.receipts.done():
                if isinstance(outcome, BusError):
                    entry.receipts.set_exception(BusError(str(outcome)))
                else:
                    entry.receipts.set_result(outcome[start:end])
            start = end
