"""Ports for the child processes of stand-ins."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

_LOWEST, _COUNT = 20_000, 12_000
"""Below 32768, where the kernel begins to deal out ports to whoever connects or binds to 0."""

_dealt: set[int] = set()
_range = range(_LOWEST, _LOWEST + _COUNT)


def deal_only(part: int, parts: int) -> None:
    """Keep this process to one of equal parts of the range, so that several at once never deal out the same port."""
    global _range
    size = _COUNT // parts
    _range = range(_LOWEST + part * size, _LOWEST + (part + 1) * size)


def free_port() -> int:
    """Return a port of loopback that nobody has, and that this process has not been given before."""
    for _ in range(_COUNT):
        port = secrets.choice(_range)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            if port not in _dealt:
                _dealt.add(port)
                return port
    raise OSError(f"no free port of 127.0.0.1 between {_range.start} and {_range.stop}")


def wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path, timeout_s: float = 60.0) -> None:
    """Return once something listens on the port. Raises RuntimeError with the log's end where the process is gone."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                end = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"nothing listens on port {port} (status {process.poll()}): {end}") from None
        time.sleep(0.05)
