"""Checks that a port is free, so that a busy one gives one clear error."""

from __future__ import annotations

import socket

from rl_core.errors import PortBusy


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
