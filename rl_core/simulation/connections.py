"""How simulated users reach an endpoint: a connection posts one request after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rl_core.errors import EndpointError


class Unreachable(EndpointError):
    """No such endpoint, or no right to ask it: sending it again won't help."""


class Connection(Protocol):
    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to `/predict` or `/reward`.

        Raises EndpointError where none came: it may have been taken all the same; Unreachable where none will come.
        """

    def close(self) -> None: ...


Connect = Callable[[], Connection]
