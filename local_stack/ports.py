"""Gives out ports, and checks that one is free, so that a busy one gives one clear error."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from rl_core.errors import PortBusy

_LAST = 65535


def require_free_port(port: int, setting: str) -> None:
    """Raise PortBusy naming the port and the setting that moves it."""
    if reason := _taken(port):
        raise PortBusy(
            f"port {port} on 127.0.0.1 is taken ({reason}); stop what listens there or set {setting} to a free port"
        )


def give_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Give each name the port it wants; where it is taken, or was given already, the next free one above.

    Nobody is given what another wants and can have. Raises PortBusy where there is none above.
    """
    given: dict[str, int] = {}
    for name, port in wanted.items():
        if port not in given.values() and not _taken(port):
            given[name] = port
    for name, port in wanted.items():
        if name not in given:
            above = (one for one in range(port + 1, _LAST + 1) if one not in given.values() and not _taken(one))
            if (found := next(above, None)) is None:
                raise PortBusy(f"no port from {port} to {_LAST} is free for the server of {name}; give it a lower one")
            given[name] = found
    return {name: given[name] for name in wanted}


def _taken(port: int) -> str | None:
    """Why the port of loopback can't be had, if so."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return None
