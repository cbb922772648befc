"""The lock of the local message bus: who holds it may write, rebuild, and open the file."""

from __future__ import annotations

import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rl_core.errors import BusError


class BusLock:
    """Excludes threads and processes alike. The kernel gives it back when its holder dies. Not re-entrant."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = os.fspath(path)
        self._timeout_s = timeout_s
        self._threads = threading.Lock()
        self._descriptor: int | None = None
        self._identity: os.stat_result | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises BusError when somebody else keeps it for longer than the timeout, OSError."""
        deadline = time.monotonic() + self._timeout_s
        if not self._threads.acquire(timeout=self._timeout_s):
            raise self._too_long()
        try:
            descriptor = self._taken(deadline)
            try:
                yield
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def close(self) -> None:
        with self._threads:
            self._drop()

    def _taken(self, deadline: float) -> int:
        while True:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                self._identity = os.fstat(self._descriptor)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self._too_long() from None
                time.sleep(random.uniform(0.0005, 0.0015))  # noqa: S311  no two processes in step
                continue
            if self._is_ours():
                return self._descriptor
            self._drop()  # the file was deleted: others lock another one by now

    def _is_ours(self) -> bool:
        try:
            return self._identity is not None and os.path.samestat(os.stat(self._path), self._identity)
        except FileNotFoundError:
            return False

    def _drop(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _too_long(self) -> BusError:
        return BusError(f"{self._path}: another process kept it locked for more than {self._timeout_s:g} s; try again")
