"""Answers the three routes that carry traffic before FastAPI's routing, whose layers cost as much as the decision.

Every request passes here, so the token is asked for here, before anything of a body is read.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable

import orjson
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from rl_core.config import Serving
from rl_core.errors import SchemaError
from rl_core.serving.service import Service, Unavailable

_log = logging.getLogger(__name__)
_Headers = tuple[tuple[bytes, bytes], ...]
_NO_HEADERS: _Headers = ()
_CLOSE: _Headers = ((b"connection", b"close"),)
_RETRY: _Headers = ((b"retry-after", b"1"),)
_LARGE_BODIES = 8
"""So many bodies of serving.max_body_bytes are held at once; those that arrive in one piece are not counted."""


class _TooLarge(Exception):
    """The body is longer than serving.max_body_bytes."""


class _Crowded(Unavailable):
    """The rest of the body is not read."""


class _Unauthorized(Exception):
    """The token is missing or another one."""


class _Gone(Exception):
    """The client hung up before its request was complete."""


class HotRoutes:
    """The outermost ASGI application: answers POST to predict, reward and activate; hands the rest to `app`.

    Args:
        token: what every request must show, but for those to `open_route`.
    """

    def __init__(
        self,
        app: ASGIApp,
        serving: Serving,
        service: Callable[[], Service],
        predict_route: str,
        open_route: str,
        token: SecretStr | None = None,
    ) -> None:
        self._app = app
        self.limit = serving.max_body_bytes
        self.held_bytes = 0
        self._most_at_work = serving.max_concurrency
        self._service = service
        self._predict_route = predict_route
        self._open_route = open_route
        self._shown = f"Bearer {token.get_secret_value()}".encode() if token else None
        self._at_work = 0
        self._handlers: dict[str, Callable[[Service, bytes], Awaitable[bytes]]] = {
            predict_route: Service.predict,
            "/reward": Service.reward,
            "/activate": Service.activate,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["method"] == "POST" and scope["path"] in self._handlers:
            await self._answer(scope, receive, send)
        elif scope["path"] == self._open_route or self._authorized(scope):
            await self._app(scope, receive, send)
        else:
            status, headers, answer = _refusal(_Unauthorized(), self._service())
            await _respond(send, status, answer, headers)

    def count_refusal(self, status: int) -> None:
        """Count a request that was refused with this HTTP status."""
        _count(self._service(), status)

    def _authorized(self, scope: Scope) -> bool:
        if self._shown is None:
            return True
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = shown.partition(b" ")  # the scheme's case does not matter: RFC 9110
        return hmac.compare_digest(scheme.capitalize() + b" " + token, self._shown)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service()
        service.counts["requests"] += 1
        status, headers, held = 200, _NO_HEADERS, _Held(self)
        try:
            if not self._authorized(scope):
                raise _Unauthorized
            body = await self._body(scope, receive, held)
            if self._at_work >= self._most_at_work:
                raise Unavailable(
                    f"{self._at_work} requests are at work; serving.max_concurrency is {self._most_at_work}: "
                    "send this again a little later"
                )
            self._at_work += 1
            try:
                answer = await self._handlers[scope["path"]](service, body)
            finally:
                self._at_work -= 1
        except _Gone:
            return
        except Exception as error:
            status, headers, answer = _refusal(error, service)
        finally:
            held.release()
        if status == 200 and scope["path"] == self._predict_route and _hung_up(scope):
            service.counts["undelivered"] += 1
        await _respond(send, status, answer, headers)

    async def _body(self, scope: Scope, receive: Receive, held: _Held) -> bytes:
        """The body. Of one that is too large at most twice the limit is read, so that most clients see the answer."""
        refusal = f"serving.max_body_bytes is {self.limit}: send fewer instances in one request"
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > 2 * self.limit:
            raise _TooLarge(f"the body is {announced.decode()} bytes long; {refusal}")
        chunks: list[bytes] = []
        size, more = 0, True
        while more and size <= 2 * self.limit:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            chunk, more = message.get("body", b""), message.get("more_body", False)
            size += len(chunk)
            if size <= self.limit:
                if more or chunks:
                    held.take(len(chunk))
                chunks.append(chunk)
        if size > self.limit:
            raise _TooLarge(f"the body has more than {self.limit} bytes; {refusal}")
        return b"".join(chunks)


class _Held:
    """What one request holds of the memory that all large bodies share."""

    def __init__(self, routes: HotRoutes) -> None:
        self._routes = routes
        self._bytes = 0

    def take(self, size: int) -> None:
        """Raises Unavailable when the others leave none."""
        routes = self._routes
        if routes.held_bytes + size > _LARGE_BODIES * routes.limit:
            raise _Crowded("too many large bodies arrive at once; send this again a little later")
        self._bytes += size
        routes.held_bytes += size

    def release(self) -> None:
        self._routes.held_bytes -= self._bytes


def _hung_up(scope: Scope) -> bool:
    """Whether the connection is known to be gone, so that nobody will read the answer. See `LimitedProtocol`."""
    client = scope.get("state", {}).get("client")
    return client is not None and bool(client.disconnected)


def _refusal(error: Exception, service: Service) -> tuple[int, _Headers, bytes]:
    headers, message = _NO_HEADERS, str(error)
    if isinstance(error, SchemaError):
        status = 400
    elif isinstance(error, _Unauthorized):
        status, headers = 401, ((b"www-authenticate", b"Bearer"),)
        message = "this server wants `Authorization: Bearer <token>` with its BANDIT_SERVER_TOKEN"
    elif isinstance(error, _TooLarge):
        status, headers = 413, _CLOSE
    elif isinstance(error, Unavailable):
        status, headers = 503, _RETRY + (_CLOSE if isinstance(error, _Crowded) else _NO_HEADERS)
    else:
        _log.error("a defect of ours", exc_info=error)
        status, message = 500, f"a defect of the server ({type(error).__name__}); its log has the traceback"
    _count(service, status)
    return status, headers, orjson.dumps({"error": message})


def _count(service: Service, status: int) -> None:
    service.counts[{500: "defects", 503: "unavailable"}.get(status, "refused_requests")] += 1


async def _respond(send: Send, status: int, body: bytes, headers: _Headers) -> None:
    length = (b"content-length", str(len(body)).encode())
    start = [(b"content-type", b"application/json"), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
