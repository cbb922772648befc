"""The HTTP side of the prediction server: routes, error answers, OpenAPI.

`/predict` and `/reward` are documented by pydantic models and read by hand (`rl_core.online.requests`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Lifespan

from rl_core.config import Bandit, ServingContainer
from rl_core.errors import SchemaError
from rl_core.online import api
from rl_core.online.metrics import prometheus
from rl_core.online.service import Service, Unavailable

_log = logging.getLogger(__name__)
Answerer = Callable[[bytes], Awaitable[bytes]]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class TooLarge(Exception):
    """The body is longer than serving.max_body_bytes."""


def build_app(
    bandit: Bandit, container: ServingContainer, service: Callable[[], Service], lifespan: Lifespan[FastAPI]
) -> FastAPI:
    """The application; `service` is asked for at each request, since it is born within `lifespan`."""
    app = FastAPI(
        title=f"banditloop prediction server: {bandit.name}",
        description="Decisions with propensities, logged before they are answered, and the rewards they earn.",
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error, Exception: _defect},
    )
    limit = bandit.serving.max_body_bytes

    async def predict(request: Request) -> Response:
        started = time.perf_counter()
        current = service()
        response = await _answered(request, limit, current, current.predict)
        current.latencies.append(time.perf_counter() - started)
        return response

    async def reward(request: Request) -> Response:
        current = service()
        return await _answered(request, limit, current, current.reward)

    app.router.add_api_route(
        container.predict_route,
        _documented(api.predict_body(bandit)),
        name="predict",
        summary="Choose an action for each instance; the same event_id again gets the same answer",
        response_model=api.PredictAnswer,
        route_class_override=_read_by_hand(predict),
        methods=["POST"],
        responses=api.REFUSED,
    )
    app.router.add_api_route(
        "/reward",
        _documented(api.reward_body(bandit)),
        name="reward",
        summary="Take rewards, one or many, for decisions made before",
        response_model=api.RewardAnswer,
        route_class_override=_read_by_hand(reward),
        methods=["POST"],
        responses=api.REFUSED,
    )
    _add_views(app, bandit, container, service)
    return app


def _add_views(app: FastAPI, bandit: Bandit, container: ServingContainer, service: Callable[[], Service]) -> None:
    @app.get(
        container.health_route,
        summary="200 while a policy is served, else 503: what Vertex AI asks before it sends traffic",
        responses={200: {"model": api.Health}, 503: {"model": api.Health}},
    )
    async def health() -> Response:
        found = service().health()
        return _json(found, 200 if found["champion"] else 503)

    @app.get("/state", summary="Always 200 while the process is up", responses={200: {"model": api.State}})
    async def state() -> Response:
        return _json(service().state())

    @app.get("/metrics", summary="Counters in Prometheus text format")
    async def metrics() -> Response:
        return Response(prometheus(service().state()), media_type="text/plain; version=0.0.4")

    @app.get("/", summary="What this is")
    async def about() -> Response:
        routes = {
            "predict": f"POST {container.predict_route}",
            "reward": "POST /reward",
            "health": f"GET {container.health_route}",
            "state": "GET /state",
            "metrics": "GET /metrics",
            "documentation": "GET /docs",
        }
        return _json({"banditloop": "prediction server", "bandit": bandit.name, "routes": routes, **service().health()})


def _documented(body_type: Any) -> Callable[..., Coroutine[Any, Any, None]]:
    """An endpoint that says what its route takes and is never called."""

    async def endpoint(body: Any) -> None: ...

    endpoint.__annotations__["body"] = body_type
    return endpoint


def _read_by_hand(handler: Handler) -> type[APIRoute]:
    """A route that OpenAPI describes by its endpoint's signature while `handler` answers, without FastAPI's parsing."""

    class ReadByHand(APIRoute):
        def get_route_handler(self) -> Handler:
            return handler

    return ReadByHand


async def _answered(request: Request, limit: int, service: Service, answer: Answerer) -> Response:
    service.counts["requests"] += 1
    try:
        return Response(await answer(await _body(request, limit)), media_type="application/json")
    except SchemaError as error:
        service.counts["refused_requests"] += 1
        return _json({"error": str(error)}, 400)
    except TooLarge as error:
        service.counts["refused_requests"] += 1
        return _json({"error": str(error)}, 413, {"connection": "close"})
    except Unavailable as error:
        service.counts["unavailable"] += 1
        return _json({"error": str(error)}, 503, {"retry-after": "1"})
    except ClientDisconnect:
        return Response(status_code=400)


async def _body(request: Request, limit: int) -> bytes:
    """The body. Of one that is too large at most twice the limit is read, so that most clients see the answer."""
    refusal = f"serving.max_body_bytes is {limit}: send fewer instances in one request"
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > 2 * limit:
        raise TooLarge(f"the body is {announced} bytes long; {refusal}")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > 2 * limit:
            break
    if size > limit:
        raise TooLarge(f"the body has more than {limit} bytes; {refusal}")
    return b"".join(chunks)


def _json(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405, in the same form as every other error."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class alone
    headers = dict(error.headers or {})
    messages = {
        404: f"no route {request.url.path}; GET / lists the routes",
        405: f"{request.url.path} does not take {request.method}; it takes {headers.get('Allow', 'other methods')}",
    }
    return _json({"error": messages.get(error.status_code, str(error.detail))}, error.status_code, headers)


async def _defect(request: Request, error: Exception) -> Response:
    _log.error("%s %s: a defect of ours", request.method, request.url.path, exc_info=error)
    return _json({"error": f"a defect of the server ({type(error).__name__}); its log has the traceback"}, 500)
