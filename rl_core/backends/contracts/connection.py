"""The connection by which simulated users reach an endpoint: it posts one request after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rl_core.errors import EndpointError


class Unreachable(EndpointError):
    """There is no such endpoint, or no right to call it: sending the request again won't help."""


class Connection(Protocol):
    """One connection to an endpoint, on this machine or on Vertex AI."""

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a body to `/predict` or `/reward`; return status and body of the answer.

        Raises:
            EndpointError: no answer came; the request may have been taken all the same.
            Unreachable: none will come.
        """

    def close(self) -> None:
        """Close the connection."""


Connect = Callable[[], Connection]
