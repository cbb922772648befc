"""HTTP/1.1 with limits: ends slow, endless and malformed connections, so that they cost the others nothing.

uvicorn's protocol waits for ever for a request that does not come, and its parser takes a head of any length (httptools
keeps an unfinished header until it ends). What is refused here never reaches the application.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

MAX_HEAD_BYTES = 65_536
MAX_PIPELINED = 64
MAX_CONNECTIONS = 1024
_OTHER_FILES = 128  # descriptors left to the bus, the registry and the log
_ONE_LOOK_S = 0.05
_SLOW_AT_THE_END_S = 2.0
_RETRY = ((b"retry-after", b"1"),)
_Refusal = tuple[HTTPStatus, str]
_MALFORMED = (HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request")
_HEAD_TOO_LONG = (
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"the request line and headers have more than {MAX_HEAD_BYTES} bytes; send fewer",
)
_TOO_MANY = (HTTPStatus.BAD_REQUEST, f"more than {MAX_PIPELINED} requests wait on this connection; use several")


def limited(request_timeout_s: float, refused: Callable[[int], None]) -> type[LimitedProtocol]:
    """Make the protocol class that uvicorn starts for each connection.

    Args:
        request_timeout_s: within which a request must arrive whole, and within which a client must read its answer.
        refused: called with the status of each request that is answered here.
    """
    return type("Limited", (LimitedProtocol,), {"timeout_s": request_timeout_s, "refused": staticmethod(refused)})


def max_connections() -> int:
    """Count the connections that may be open: as descriptors allow, `MAX_CONNECTIONS` at most.

    Some descriptors are kept back, since without one the message bus could not be written.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(16, min(MAX_CONNECTIONS, descriptors - _OTHER_FILES))


class _Refused(Exception):
    """Ends the parsing when it is raised in one of the parser's callbacks."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection; uvicorn calls it."""

    timeout_s: float
    refused: Callable[[int], None]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._arriving = False  # a request has begun and is not here whole
        self._progress = False  # what was just read began a request or held a piece of its body
        self._loose_bytes = 0  # read since the last progress: an unfinished head or trailer
        self._head_bytes = 0
        self._refusal: _Refusal = _MALFORMED
        self._idle_since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._wait()
        if len(self.connections) > max_connections() and not self._close_the_idlest():
            self._refuse((HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open; try again"), _RETRY)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def _close_the_idlest(self) -> bool:
        others = (one for one in self.connections if isinstance(one, LimitedProtocol) and one is not self)
        idlest = min((one for one in others if one._idle), key=lambda one: one._idle_since, default=None)
        if idlest is not None:
            idlest.transport.abort()
        return idlest is not None

    @property
    def _idle(self) -> bool:
        return not self._arriving and not self._at_work

    @property
    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # What arrives

    def data_received(self, data: bytes) -> None:
        self._progress = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._arriving:
            self._loose_bytes = 0 if self._progress else self._loose_bytes + len(data)
            if self._loose_bytes > MAX_HEAD_BYTES:
                self._refuse(_HEAD_TOO_LONG)
        if self._arriving or not self._at_work:  # the latter: blank lines, which begin nothing
            self._wait()
        elif self._deadline is not None:
            self._stop_waiting()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arriving = self._progress = True
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add up the bytes of the head, or of the trailers of a chunked body."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._give_up(_HEAD_TOO_LONG)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) + self._head_bytes > MAX_HEAD_BYTES:
            self._give_up(_HEAD_TOO_LONG)
        if len(self.pipeline) >= MAX_PIPELINED:
            self._give_up(_TOO_MANY)
        super().on_headers_complete()
        self.scope["state"]["client"] = self.cycle  # so that the application sees whether anybody is left to answer

    def on_body(self, body: bytes) -> None:
        self._progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving = False
        super().on_message_complete()

    def _give_up(self, refusal: _Refusal) -> None:
        self._refusal = refusal
        raise _Refused

    def send_400_response(self, msg: str) -> None:
        """Refuse what uvicorn's parser gave up on, in the form of every other error."""
        self._refuse(self._refusal)

    # What leaves

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _refuse(self, refusal: _Refusal, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Answer in the form of every other error and close, after the answers that are still owed."""
        if self.transport.is_closing():
            return
        self._stop_waiting()
        self._arriving = False
        if self._at_work and not self.cycle.more_body:  # an earlier request: its answer is the last one
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not (self._at_work and self.cycle.response_started) and not self.pipeline:
            status, message = refusal
            body = orjson.dumps({"error": message})
            length = (b"content-length", str(len(body)).encode())
            lines = ((b"content-type", b"application/json"), length, (b"connection", b"close"), *headers)
            head = b"".join(b"%b: %b\r\n" % line for line in lines)
            self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
            self.refused(status)
        if self._at_work:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # Time

    def _wait(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.timeout_s, self._read_first)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _read_first(self) -> None:
        """Look at the socket once more before the client counts as slow: it may be this process that stood still."""
        self._deadline = self.loop.call_later(_ONE_LOOK_S, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if self._arriving:
            self._refuse(
                (HTTPStatus.REQUEST_TIMEOUT, f"not here whole within serving.request_timeout_s={self.timeout_s:g}")
            )
        elif not self._at_work:
            self.transport.abort()  # nothing was asked: an answer would be taken for that to the next request

    def timeout_keep_alive_handler(self) -> None:
        self._end()

    def shutdown(self) -> None:
        """End the connection as the server stops: what is at work is answered; the slow get a little time."""
        super().shutdown()
        self._stop_waiting()
        self._deadline = self.loop.call_later(_SLOW_AT_THE_END_S, self._end)

    def _end(self) -> None:
        if self._arriving:
            self._refuse((HTTPStatus.SERVICE_UNAVAILABLE, "the server stops; send this again"), _RETRY)
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait for a client that does not read
        elif not self._at_work:
            self.transport.close()
