"""Faults that a test asks a stand-in for: the next calls of a method fail, before or after they took effect."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Fault:
    """Args:
    code: gRPC status name ("UNAVAILABLE") or HTTP status ("503"); None changes nothing but the delay.
    after: the call takes effect and its answer is lost, instead of failing before it does anything.
    drop: the connection ends without an answer.
    match: only calls whose request has this text in it, over gRPC; "" is every call.
    delay_s: waited before the call; before its answer, where `after` is set.
    """

    method: str
    code: str | None = None
    times: int = 1
    after: bool = False
    drop: bool = False
    delay_s: float = 0.0
    message: str = "a fault that was asked for"
    match: str = ""

    def fits(self, request: bytes) -> bool:
        return self.times > 0 and self.match.encode() in request


class Faults:
    """What is still to fail. Thread-safe; `calls` counts every call by method, failed or not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: list[Fault] = []
        self._cleared = threading.Event()
        self.calls: dict[str, int] = {}
        self.connections: list[Callable[[], None]] = []
        """What ends the open connections of a stand-in at once; for `drop` over gRPC."""

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._planned.append(fault)

    def clear(self, match: str | None = None) -> None:
        """Forget what is planned, and end delays; where `match` is given, only plans with it."""
        with self._lock:
            if match is None:
                self._cleared.set()
                self._cleared = threading.Event()
            self._planned = [fault for fault in self._planned if match is not None and fault.match != match]

    def next(self, method: str, request: bytes = b"") -> Fault | None:
        """The fault of this call of `method`, after its delay."""
        with self._lock:
            self.calls[method] = self.calls.get(method, 0) + 1
            fault = next((one for one in self._planned if one.method == method and one.fits(request)), None)
            if fault is not None:
                fault.times -= 1
        if fault is not None and not fault.after:
            self.delay(fault)
        return fault

    def delay(self, fault: Fault) -> None:
        """Wait for as long as the fault says, or until faults are cleared."""
        with self._lock:
            cleared = self._cleared
        cleared.wait(fault.delay_s)
