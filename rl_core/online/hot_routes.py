"""The two routes that carry traffic, answered before FastAPI's routing: its layers cost as much as the decision."""

from __future__ import annotations

import logging
from collections.abc import Callable

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from rl_core.errors import SchemaError
from rl_core.online.service import Service, Unavailable

_log = logging.getLogger(__name__)
_Headers = tuple[tuple[bytes, bytes], ...]
_NO_HEADERS: _Headers = ()


class _TooLarge(Exception):
    """The body is longer than serving.max_body_bytes."""


class _Gone(Exception):
    """The client hung up before its request was complete."""


class HotRoutes:
    """ASGI: POST to the predict route and to /reward; everything else goes to `app`."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, service: Callable[[], Service], predict_route: str) -> None:
        self._app = app
        self._limit = max_body_bytes
        self._service = service
        self._predict_route = predict_route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in (self._predict_route, "/reward"):
            await self._answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service()
        service.counts["requests"] += 1
        status, headers = 200, _NO_HEADERS
        try:
            body = await self._body(scope, receive)
            if scope["path"] == self._predict_route:
                answer = await service.predict(body)
            else:
                answer = await service.reward(body)
        except _Gone:
            return
        except Exception as error:
            status, headers, answer = _refusal(error, service)
        await _respond(send, status, answer, headers)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body. Of one that is too large at most twice the limit is read, so that most clients see the answer."""
        refusal = f"serving.max_body_bytes is {self._limit}: send fewer instances in one request"
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > 2 * self._limit:
            raise _TooLarge(f"the body is {announced.decode()} bytes long; {refusal}")
        chunks, size, more = [], 0, True
        while more and size <= 2 * self._limit:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size <= self._limit:
                chunks.append(chunk)
        if size > self._limit:
            raise _TooLarge(f"the body has more than {self._limit} bytes; {refusal}")
        return b"".join(chunks)


def _refusal(error: Exception, service: Service) -> tuple[int, _Headers, bytes]:
    headers, message = _NO_HEADERS, str(error)
    if isinstance(error, SchemaError):
        status = 400
    elif isinstance(error, _TooLarge):
        status, headers = 413, ((b"connection", b"close"),)
    elif isinstance(error, Unavailable):
        status, headers = 503, ((b"retry-after", b"1"),)
    else:
        _log.error("a defect of ours", exc_info=error)
        status, message = 500, f"a defect of the server ({type(error).__name__}); its log has the traceback"
    service.counts[{500: "defects", 503: "unavailable"}.get(status, "refused_requests")] += 1
    return status, headers, orjson.dumps({"error": message})


async def _respond(send: Send, status: int, body: bytes, headers: _Headers) -> None:
    length = (b"content-length", str(len(body)).encode())
    start = [(b"content-type", b"application/json"), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
