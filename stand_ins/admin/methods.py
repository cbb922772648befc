"""What each method does: the standard ones generically, a resource's own rules in kinds.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from stand_ins.admin import kinds
from stand_ins.admin.call import Call
from stand_ins.admin.errors import RestError, denied
from stand_ins.admin.world import PROJECT_NUMBER, REGIONS, Resource


def answer(call: Call) -> Resource:
    """Raises RestError."""
    _check_project(call)
    if call.verb == "testIamPermissions":  # needs no permission
        asked = call.body.get("permissions", [])
        return {"permissions": [p for p in asked if call.world.allowed(call.principal, p)]}
    if call.collection == "operations":
        if call.name not in call.world.operations:
            raise RestError("NOT_FOUND", f"Operation {call.name} was not found")
        return call.world.operations[call.name]
    call.world.require(call.principal, call.permission, call.name)
    handler = _HANDLERS.get(call.method.id) or _STANDARD.get(call.verb)
    if handler is None or call.collection not in kinds.COLLECTIONS:
        raise RestError("INTERNAL", f"the stand-in has no {call.method.id}; add it to stand_ins/admin/methods.py")
    return handler(call)


def _check_project(call: Call) -> None:
    match = re.match(r"projects/([^/]+)(?:/locations/([^/]+))?", call.name)
    if match is None:
        return
    if match[1] not in (call.world.project, PROJECT_NUMBER):
        raise denied(call.permission, f"projects/{match[1]}' (or it may not exist) '")
    if match[2] and match[2] not in REGIONS:
        raise RestError("PERMISSION_DENIED", f"Permission denied on 'locations/{match[2]}' (or it may not exist).")


def _create(call: Call) -> Resource:
    name, resource = kinds.born(call)
    made = call.world.add(name, resource)
    return _maybe_later(call, made, kinds.after_create(call.world, call.collection, made))


def _patch(call: Call) -> Resource:
    made = call.world.patch(call.name, call.body, call.option("updateMask"))
    return _maybe_later(call, made, kinds.after_create(call.world, call.collection, made))


def _delete(call: Call) -> Resource:
    removed = call.world.remove(call.name)
    kinds.after_delete(call.world, call.collection, removed)
    return _maybe_later(call, {}, None)


def _maybe_later(call: Call, response: Resource, error: str | None) -> Resource:
    if call.method.spec["response"]["$ref"] != "Operation":
        return response
    place = "/".join(call.name.split("/")[:4])
    return call.world.operation(place, response, error)


def _list(call: Call) -> Resource:
    found = [r for name, r in call.world.resources.items() if name.rpartition("/")[0] == call.name]
    return {call.collection: found}


def _get_policy(call: Call) -> Resource:
    _check_there(call)
    return call.world.policy(call.name)


def _set_policy(call: Call) -> Resource:
    _check_there(call)
    policy = call.body if call.method.service == "storage.v1" else call.body.get("policy", {})
    return call.world.set_policy(call.name, policy)


def _check_there(call: Call) -> None:
    if call.collection in kinds.ELSEWHERE:
        if not call.world.hooks.exists(call.name):
            raise RestError("NOT_FOUND", f"Resource not found: {call.name}")
    elif call.collection != "projects":
        call.world.get(call.name)


def _project(call: Call) -> Resource:
    return {"name": f"projects/{PROJECT_NUMBER}", "projectId": call.world.project, "state": "ACTIVE"}


def _locations(call: Call) -> Resource:
    return {"locations": [{"name": f"{call.parent}/locations/{region}", "locationId": region} for region in REGIONS]}


def _services(call: Call) -> Resource:
    return {"services": [_service(call, name) for name in call.query.get("names", [])]}


def _service(call: Call, name: str) -> Resource:
    host = name.rpartition("/")[2]
    return {
        "name": f"projects/{PROJECT_NUMBER}/services/{host}",
        "state": "DISABLED" if host in call.world.disabled else "ENABLED",
    }


def _job_state(state: str) -> Callable[[Call], Resource]:
    def change(call: Call) -> Resource:
        call.world.get(call.name)["state"] = state
        return call.world.get(call.name)

    return change


_STANDARD: Mapping[str, Callable[[Call], Resource]] = {
    "get": lambda call: call.world.get(call.name),
    "create": _create,
    "patch": _patch,
    "delete": _delete,
    "list": _list,
    "getIamPolicy": _get_policy,
    "setIamPolicy": _set_policy,
}
_HANDLERS: Mapping[str, Callable[[Call], Resource]] = {
    "cloudresourcemanager.projects.get": _project,
    "cloudfunctions.projects.locations.list": _locations,
    "serviceusage.services.batchGet": _services,
    "serviceusage.services.get": lambda call: _service(call, call.name),
    "cloudscheduler.projects.locations.jobs.pause": _job_state("PAUSED"),
    "cloudscheduler.projects.locations.jobs.resume": _job_state("ENABLED"),
}
