"""What is particular to a kind of resource: its name, what it must hold, what comes and goes with it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from stand_ins.admin.call import Call
from stand_ins.admin.errors import RestError, invalid
from stand_ins.admin.world import Resource, World

ELSEWHERE = {"buckets", "tables"}
"""Kept by other stand-ins; only their policies are here."""

COLLECTIONS = {"functions", "jobs", "repositories", "serviceAccounts", "services", "projects", "locations"} | ELSEWHERE
_ACCOUNT_ID = re.compile(r"^[a-z]([-a-z0-9]{4,28}[a-z0-9])$")
_CRON = re.compile(r"^\S+( \S+){4}$|^every .+$")


def born(call: Call) -> tuple[str, Mapping[str, Any]]:
    """Full name and content of what a create call asks for."""
    return _BORN[call.collection](call)


def after_create(world: World, collection: str, made: Resource) -> str | None:
    """What a service adds to what it was told; gives the error of the operation where one was asked for."""
    now = datetime.now(UTC).isoformat()
    if collection == "jobs":
        made.setdefault("state", "ENABLED")
        made["userUpdateTime"] = now
    if collection != "functions":
        return None
    _check_function(world, made)
    made |= {"environment": "GEN_2", "updateTime": now, "state": "ACTIVE"}
    service = made["name"].replace("/functions/", "/services/")
    made["serviceConfig"] = {**made.get("serviceConfig", {}), "service": service, "uri": f"https://{uuid.uuid4().hex}"}
    world.resources.setdefault(service, {"name": service})
    if world.builds_fail is not None:
        made["state"], made["stateMessages"] = "FAILED", [{"message": world.builds_fail}]
        return world.builds_fail
    world.hooks.deployed(made)
    return None


def after_delete(world: World, collection: str, removed: Resource) -> None:
    if collection == "serviceAccounts":
        world.drop_account(removed)
    if collection == "functions":
        service = removed["name"].replace("/functions/", "/services/")
        if service in world.resources:
            world.remove(service)
        world.hooks.deleted(removed)


def _function(call: Call) -> tuple[str, Mapping[str, Any]]:
    function = call.option("functionId") or ""
    if not re.fullmatch(r"[a-z][-a-z0-9]{2,61}[a-z0-9]", function):
        raise invalid(f"functionId {function!r} is not valid")
    _check_function(call.world, call.body)
    return f"{call.parent}/functions/{function}", call.body


def _check_function(world: World, body: Mapping[str, Any]) -> None:
    build, service, trigger = body.get("buildConfig", {}), body.get("serviceConfig", {}), body.get("eventTrigger")
    if not build.get("entryPoint") or not re.fullmatch(r"python3\d+", build.get("runtime", "")):
        raise invalid("build_config.entry_point and a supported build_config.runtime are required")
    source = build.get("source", {}).get("storageSource", {})
    if not source.get("bucket") or not source.get("object"):
        raise invalid("build_config.source.storage_source needs bucket and object")
    if not world.hooks.exists(f"b/{source['bucket']}/o/{source['object']}"):
        raise invalid(f"gs://{source['bucket']}/{source['object']} does not exist")
    for email in filter(None, (service.get("serviceAccountEmail"), (trigger or {}).get("serviceAccountEmail"))):
        if world.account(email) is None:
            raise RestError(
                "PERMISSION_DENIED",
                f"Permission 'iam.serviceaccounts.actAs' denied on service account {email} (or it may not exist).",
            )
    if trigger is not None and not world.hooks.exists(trigger.get("pubsubTopic", "")):
        raise invalid(f"event_trigger.pubsub_topic {trigger.get('pubsubTopic')!r} does not exist")


def _job(call: Call) -> tuple[str, Mapping[str, Any]]:
    name = str(call.body.get("name", ""))
    if not name.startswith(f"{call.parent}/jobs/"):
        raise invalid(f"Job name must be formatted: {call.parent}/jobs/<JOB_ID>.")
    if not _CRON.match(str(call.body.get("schedule", ""))):
        raise invalid("Schedule or time zone is invalid.")
    target = call.body.get("pubsubTarget", {})
    if not call.world.hooks.exists(target.get("topicName", "")):
        raise RestError("NOT_FOUND", f"Resource not found: {target.get('topicName')}")
    if not target.get("data") and not target.get("attributes"):
        raise invalid("A Pub/Sub target needs data or attributes.")
    return name, call.body


def _repository(call: Call) -> tuple[str, Mapping[str, Any]]:
    repository = call.option("repositoryId")
    if repository is None or call.body.get("format") != "DOCKER":
        raise invalid("repository_id and a supported format are required")
    return f"{call.parent}/repositories/{repository}", call.body


def _account(call: Call) -> tuple[str, Mapping[str, Any]]:
    account = str(call.body.get("accountId", ""))
    if not _ACCOUNT_ID.match(account):
        raise invalid(f"Invalid service account ID {account!r}.")
    email = f"{account}@{call.world.project}.iam.gserviceaccount.com"
    told = call.body.get("serviceAccount", {})
    return (
        f"{call.parent}/serviceAccounts/{email}",
        {**told, "email": email, "projectId": call.world.project, "uniqueId": str(uuid.uuid4().int)[:21]},
    )


_BORN = {"functions": _function, "jobs": _job, "repositories": _repository, "serviceAccounts": _account}
