"""A long-running program under a supervisor that starts it again as soon as it has ended, as a service manager does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RESTART_S = 0.5
"""How long a program that ended by itself stays down: one that can't start must not eat the machine."""


@dataclass(frozen=True)
class Exit:
    """`status` as of Popen.returncode; `killed` where this program did it."""

    at: float
    status: int
    killed: bool


class Supervised:
    """`command`, kept running from `start` until `stop`. Its output goes to the file `log`."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self._command, self._env = list(command), dict(env)
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._killed: set[int] = set()
        self._away_until = 0.0
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"keeper of {name}", daemon=True)
        self.exits: list[Exit] = []

    @property
    def pid(self) -> int | None:
        child = self._child
        return child.pid if child is not None and child.returncode is None else None

    @property
    def unexpected(self) -> list[Exit]:
        """The ends that nobody here caused."""
        return [one for one in self.exits if not one.killed]

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._spawn()
        self._keeper.start()

    def kill(self, away_s: float = 0.0) -> int | None:
        """SIGKILL; the next is started after `away_s`. Returns the pid that was killed, None if none was there."""
        with self._lock:
            pid = self.pid
            if pid is None:
                return None
            self._killed.add(pid)
            self._away_until = time.monotonic() + away_s
            os.kill(pid, signal.SIGKILL)  # the keeper has not reaped it, so the id is still this program's
            return pid

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL to what does not end."""
        self._stopping.set()
        if self._keeper.is_alive():
            self._keeper.join(timeout=2 * RESTART_S + 2)
        child = self._child
        if child is not None and child.returncode is None:
            child.terminate()
            try:
                child.wait(grace_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def last_line(self) -> str:
        with contextlib.suppress(OSError):
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
            return lines[-1] if lines else ""
        return ""

    def _keep(self) -> None:
        while not self._stopping.wait(0.02):
            child = self._child
            if child is None:
                continue
            with self._lock:
                status = child.poll()
            if status is None:
                continue
            killed = child.pid in self._killed
            self.exits.append(Exit(time.time(), status, killed))
            pause = max(0.0, self._away_until - time.monotonic()) if killed else RESTART_S
            if self._stopping.wait(pause):
                return
            self._spawn()

    def _spawn(self) -> None:
        with self.log.open("ab") as out:
            child = subprocess.Popen(
                self._command, env=self._env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        with self._lock:
            self._child = child
