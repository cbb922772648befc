"""The server's FastAPI application: routes, error answers, OpenAPI.

`/predict`, `/reward` and `/activate` are documented here and answered by `rl_core.serving.hot_routes`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Lifespan

from rl_core import __version__
from rl_core.config import Bandit, ServingContainer
from rl_core.serving import api
from rl_core.serving.hot_routes import HotRoutes
from rl_core.serving.metrics import CONTENT_TYPE
from rl_core.serving.service import Service

_log = logging.getLogger(__name__)


def build_app(
    bandit: Bandit,
    container: ServingContainer,
    service: Callable[[], Service],
    lifespan: Lifespan[FastAPI],
    token: SecretStr | None = None,
) -> HotRoutes:
    """Build the ASGI application; `service` is called at each request, since it is made within `lifespan`."""
    app = FastAPIOffline(
        redoc_url=None,
        title=f"banditloop prediction server: {bandit.name}",
        version=__version__,
        description="Decisions with propensities, logged before they are answered, and the rewards they earn.",
        lifespan=lifespan,
        redirect_slashes=False,
        exception_handlers={HTTPException: _http_error, Exception: _defect},
    )
    secured = _Secured(token is not None)
    predict_body, reward_body, activate_body = api.bodies(bandit)
    app.post(
        container.predict_route,
        summary="Choose an action for each instance; the same event_id again gets the same answer. Takes rewards and "
        "activations, too",
        response_model=api.PredictAnswer | api.RewardAnswer,
        **secured.route(api.REFUSED),
    )(_documented(predict_body))
    app.post(
        "/reward",
        summary="Take rewards, one or many, for decisions made before",
        response_model=api.RewardAnswer,
        **secured.route(api.REFUSED),
    )(_documented(reward_body))
    app.post(
        "/activate",
        summary="Take the event ids of deferred decisions whose answer was used: they train, the others never do",
        response_model=api.RewardAnswer,
        **secured.route(api.REFUSED),
    )(_documented(activate_body))
    _add_views(app, bandit, container, service, secured)
    return HotRoutes(app, bandit.serving, service, container.predict_route, container.health_route, token)


@dataclass(frozen=True)
class _Secured:
    """Documents in OpenAPI whether a token is asked for; `HotRoutes` asks for it."""

    by_token: bool

    def route(self, responses: api.Responses) -> dict[str, Any]:
        """The arguments with which a route is documented."""
        if not self.by_token:
            return {"responses": api.LIMITED | responses}
        bearer = HTTPBearer(auto_error=False, description="the server's BANDIT_SERVER_TOKEN")
        return {"responses": api.LIMITED | api.UNAUTHORIZED | responses, "dependencies": [Security(bearer)]}


def _documented(body_type: Any) -> Callable[..., Coroutine[Any, Any, None]]:
    """Tells OpenAPI what a hot route takes; `HotRoutes` answers before FastAPI would call it."""

    async def endpoint(body: Any) -> None: ...

    endpoint.__annotations__["body"] = body_type
    return endpoint


def _add_views(
    app: FastAPI, bandit: Bandit, container: ServingContainer, service: Callable[[], Service], secured: _Secured
) -> None:
    health_model = api.Health if secured.by_token else api.HealthInFull

    @app.get(
        container.health_route,
        summary="200 while predictions are answered, else 503: what Vertex AI asks before it sends traffic",
        responses=api.LIMITED | {200: {"model": health_model}, 503: {"model": health_model}},
    )
    async def health() -> Response:
        found = service().health()
        # Vertex AI deploys only what is healthy, and startup deploys the server before it has trained a policy.
        ready = found["serves"] or (container.http_port is not None and service().vacant)
        content = {"status": found["status"]} if secured.by_token else found  # strangers may ask here
        return _json(content, 200 if ready else 503)

    @app.get(
        "/state",
        summary="Always 200 while the process is up",
        **secured.route({200: {"model": api.State}}),
    )
    async def state() -> Response:
        return _json(service().state())

    @app.get(
        "/metrics",
        summary="Counters and latencies in Prometheus' text format",
        response_class=Response,
        **secured.route({200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}),
    )
    async def metrics() -> Response:
        return Response(service().metrics(), media_type=CONTENT_TYPE)

    @app.get("/", summary="What this is", **secured.route({200: {"model": api.About}}))
    async def about() -> Response:
        routes = {
            "predict": f"POST {container.predict_route}",
            "reward": "POST /reward",
            "activate": "POST /activate",
            "health": f"GET {container.health_route}",
            "state": "GET /state",
            "metrics": "GET /metrics",
            "documentation": "GET /docs",
        }
        return _json({"banditloop": "prediction server", "bandit": bandit.name, "routes": routes, **service().health()})


def _json(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


async def _http_error(request: Request, error: Exception) -> Response:
    """404 and 405, in the same form as every other error."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class alone
    headers, path = dict(error.headers or {}), request.scope["path"]  # request.url trusts the client's Host header
    messages = {
        404: f"no route {path}; GET / lists the routes",
        405: f"{path} does not take {request.method}; it takes {headers.get('Allow', 'other methods')}",
    }
    return _json({"error": messages.get(error.status_code, str(error.detail))}, error.status_code, headers)


async def _defect(request: Request, error: Exception) -> Response:
    _log.error("%s %s: a defect of ours", request.method, request.scope["path"], exc_info=error)
    return _json({"error": f"a defect of the server ({type(error).__name__}); its log has the traceback"}, 500)
