"""What a prediction server needs of its backend besides the message bus and the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Reporter(Protocol):
    """Writes one replica's reports; blocks, and is called by one thread at a time."""

    def report(self, state: dict[str, Any]) -> None:
        """Write the server's state."""

    def close(self) -> None:
        """Take the report away: this replica is gone."""


class Announcer(Protocol):
    """Tells this machine's programs where the server listens; `str` of it names the place."""

    def write(self) -> None:
        """Write where the server listens. Raises OSError: try again."""

    def remove(self) -> None:
        """Delete it, unless another server's stands there by now."""


class ServerSide(Protocol):
    """What a server finds where it runs; its backend opens it.

    Args:
        poll_s: how often the server looks at the registry's aliases.
    """

    @property
    def poll_s(self) -> float: ...

    def salt(self, length: int) -> bytes:
        """Return the endpoint's secret, made by the first server that asks: an event id keeps its draw over restarts
        and replicas. Raises ConfigError."""

    def fetch(self, uri: str, version: str | None) -> Path:
        """Return the policy at a remote address as a folder of this machine. Raises ConfigError, RegistryError."""

    def reporter(self) -> Reporter | None:
        """Return where to say how the server does; None where anybody can ask it."""

    def announcer(self, url: str, pid: int | None) -> Announcer | None:
        """Return where to say that it listens at `url`; None where clients know the address otherwise."""
