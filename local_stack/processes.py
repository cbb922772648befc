"""Child processes that are gone when their owner is: each in a group of its own, with a log file."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rl_core.errors import BanditError, PortBusy

_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise BanditError with the log's last line if the process has ended."""
        status = self.process.poll()
        if status is None:
            return
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = lines[-1].removeprefix("error: ") if lines else "nothing was logged"
        raise BanditError(f"{self.name} ended with status {status}: {said} (whole log: {self.log})")


def _die_with_parent() -> None:
    # The stack's own `finally` ends its children; this covers a parent that was killed outright.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start(name: str, argv: Sequence[str], log: Path, env: Mapping[str, str], *, detached: bool = False) -> Child:
    """Start a program in a process group of its own, its output appended to `log`.

    With `detached` it outlives this process (`make up`); without, it gets SIGTERM when this process dies.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
            preexec_fn=None if detached else _die_with_parent,  # noqa: PLW1509 - single-threaded here
        )
    return Child(name, process, log)


def group_alive(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    return True


def stop_group(pgid: int, grace_s: float = 10.0, reap: subprocess.Popen[bytes] | None = None) -> None:
    """SIGTERM the group, wait, SIGKILL what is left."""
    for sign, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(pgid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and group_alive(pgid):
            if reap is not None:
                reap.poll()
            time.sleep(0.05)
    if reap is not None:
        reap.wait()


def require_free_port(port: int, setting: str) -> None:
    """Raise PortBusy naming the port and the setting that moves it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortBusy(
                f"port {port} on 127.0.0.1 is taken ({error.strerror}); "
                f"stop what listens there or set {setting} to a free port"
            ) from error
