"""An HTTP/1.1 client of one kept-alive connection: a tenth of what a general client costs per request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from pydantic import SecretStr

from rl_core.errors import EndpointError

TIMEOUT_S = 15.0


class HttpConnection:
    """Posts JSON to the server that `locate` finds; `locate` is called again after every broken connection.

    The server answers with Content-Length, as ours does; nothing else is understood.
    """

    def __init__(self, locate: Callable[[], str], token: SecretStr | None = None) -> None:
        self._locate = locate
        self._shown = f"authorization: Bearer {token.get_secret_value()}\r\n" if token else ""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._host = ""

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a body; return status and body of the answer.

        Raises:
            EndpointError: no answer came; the request may have been taken all the same.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = self._streams or await self._connect()
                head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n{self._shown}\r\n"
                writer.write(head.encode() + body)
                return await self._answer(reader)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            reason = str(error) or type(error).__name__
            raise EndpointError(f"http://{self._host}{path}: no answer ({reason})") from error

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        url = urlsplit(self._locate())
        self._host = url.netloc
        self._streams = await asyncio.open_connection(url.hostname, url.port or 80)
        return self._streams

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return int(status_line.split(" ", 2)[1]), body

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


def over_http(locate: Callable[[], str], token: SecretStr | None = None) -> Callable[[], HttpConnection]:
    """Make a factory of connections to the server whose base URL `locate` returns; `token` is BANDIT_SERVER_TOKEN."""
    return lambda: HttpConnection(locate, token)
