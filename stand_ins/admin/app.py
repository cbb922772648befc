"""The ASGI application: one door for all administrative services, as they share no path."""

from __future__ import annotations

import copy
import json
import threading
from typing import Any, Self

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from stand_ins.admin.call import Call
from stand_ins.admin.discovery import find
from stand_ins.admin.errors import RestError, disabled, invalid
from stand_ins.admin.methods import answer
from stand_ins.admin.world import PROJECT_NUMBER, Hooks, Resource, World
from stand_ins.faults import Faults

ANONYMOUS = "anonymous"


class _HungUpError(Exception):
    """The caller gets no answer."""


class AdminStandIn:
    """Args:
    project: the one that exists; of any other, Google says as much as of one that the caller may not see.
    """

    def __init__(self, project: str, faults: Faults, hooks: Hooks | None = None) -> None:
        self.world = World(project, hooks=hooks or Hooks())
        self._faults = faults
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def deny(self, *permissions: str, to: str | None = None) -> None:
        """From now on `to` (by its e-mail; None: everybody) lacks these permissions."""
        self.world.denied[to].update(permissions)

    def disable(self, *services: str) -> None:
        """As `gcloud services disable run.googleapis.com`."""
        self.world.disabled.update(services)

    def add(self, name: str, **resource: Any) -> None:
        """A resource that somebody else made, by its full name."""
        self.world.add(name, resource)

    def bind(self, name: str, role: str, member: str) -> None:
        """A binding that somebody else made on the resource of this full name."""
        policy = copy.deepcopy(self.world.policy(name))
        policy.setdefault("bindings", []).append({"role": role, "members": [member]})
        self.world.set_policy(name, policy)

    def members(self, name: str, role: str) -> set[str]:
        bindings = self.world.policy(name).get("bindings", [])
        return {member for binding in bindings if binding["role"] == role for member in binding["members"]}

    def everything(self) -> dict[str, Any]:
        """All resources by name, and all bindings as (resource, role, member); a table's end with it."""
        bindings = {
            (name, binding["role"], member)
            for name, policy in self.world.policies.items()
            if "/tables/" not in name or self.world.hooks.exists(name)
            for binding in policy.get("bindings", [])
            for member in binding["members"]
        }
        return {"resources": copy.deepcopy(self.world.resources), "bindings": bindings}

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        response = await run_in_threadpool(self._respond, request, body)
        if response is None:  # the start of an answer that never ends: the server hangs up
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            return
        await response(scope, receive, send)

    def _respond(self, request: Request, body: bytes) -> Response | None:
        try:
            return JSONResponse(self._answer(request, body))
        except _HungUpError:
            return None
        except RestError as error:
            return JSONResponse(error.body(), status_code=error.code)

    def _answer(self, request: Request, body: bytes) -> Resource:
        path = request.scope["path"]
        method = find(request.method, path)
        fault = self._faults.next(method.id)
        lost: Exception | None = None
        if fault is not None and fault.drop:
            lost = _HungUpError()
        elif fault is not None and fault.code is not None:
            lost = RestError(fault.code, fault.message)
        if fault is not None and lost is not None and not fault.after:
            raise lost
        query: dict[str, list[str]] = {}
        for key, value in request.query_params.multi_items():
            query.setdefault(key, []).append(value)
        try:
            content = json.loads(body) if body else None
        except ValueError as error:
            raise invalid("Invalid JSON payload received.") from error
        method.check_query(query)
        method.check_body(content)
        principal = request.headers.get("authorization", f"Bearer {ANONYMOUS}").removeprefix("Bearer ")
        with self._lock:
            if method.host in self.world.disabled:
                raise disabled(method.host, PROJECT_NUMBER)
            given = Call(self.world, method, path, query, content or {}, principal)
            response = copy.deepcopy(answer(given))
        if lost is not None:
            raise lost
        return response
