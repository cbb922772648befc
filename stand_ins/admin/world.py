"""What exists: resources and IAM policies by full name, operations that are under way, and what is forbidden."""

from __future__ import annotations

import copy
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stand_ins.admin.errors import RestError, denied, invalid

PROJECT_NUMBER = "123456789012"
REGIONS = ("europe-west1", "europe-west4", "us-central1", "us-east1")
Resource = dict[str, Any]


def _nothing(_: Mapping[str, Any]) -> None:
    return None


@dataclass
class Hooks:
    """How this stand-in reaches the others.

    exists: whether a topic, bucket or table, which another stand-in keeps, is there.
    deployed, deleted: called with the function resource.
    """

    exists: Callable[[str], bool] = lambda name: True
    deployed: Callable[[Mapping[str, Any]], None] = _nothing
    deleted: Callable[[Mapping[str, Any]], None] = _nothing


@dataclass
class World:
    project: str
    resources: dict[str, Resource] = field(default_factory=dict)
    policies: dict[str, Resource] = field(default_factory=dict)
    operations: dict[str, Resource] = field(default_factory=dict)
    denied: dict[str | None, set[str]] = field(default_factory=lambda: defaultdict(set))
    disabled: set[str] = field(default_factory=set)
    builds_fail: str | None = None
    hooks: Hooks = field(default_factory=Hooks)

    def allowed(self, principal: str, permission: str) -> bool:
        return permission not in self.denied[None] | self.denied[principal]

    def require(self, principal: str, permission: str, resource: str) -> None:
        if not self.allowed(principal, permission):
            raise denied(permission, resource)

    def get(self, name: str) -> Resource:
        if name not in self.resources:
            raise RestError("NOT_FOUND", f"Resource '{name}' was not found")
        return self.resources[name]

    def add(self, name: str, resource: Mapping[str, Any]) -> Resource:
        if name in self.resources:
            raise RestError("ALREADY_EXISTS", f"Resource '{name}' already exists")
        self.resources[name] = {**copy.deepcopy(dict(resource)), "name": name}
        return self.resources[name]

    def remove(self, name: str) -> Resource:
        removed = self.get(name)
        del self.resources[name]
        self.policies.pop(name, None)
        return removed

    def patch(self, name: str, body: Mapping[str, Any], mask: str | None) -> Resource:
        """Top-level fields and one level below them; without a mask what the body holds."""
        resource = self.get(name)
        for path in mask.split(",") if mask else body.keys():
            first, _, second = path.partition(".")
            if not second:
                resource[first] = copy.deepcopy(body.get(first))
            else:
                resource.setdefault(first, {})[second] = copy.deepcopy(body.get(first, {}).get(second))
        return resource

    def account(self, email: str) -> Resource | None:
        return self.resources.get(f"projects/{self.project}/serviceAccounts/{email}")

    def policy(self, name: str) -> Resource:
        return self.policies.setdefault(name, {"version": 1, "etag": _etag()})

    def set_policy(self, name: str, policy: Mapping[str, Any]) -> Resource:
        if policy.get("etag", (current := self.policy(name))["etag"]) != current["etag"]:
            raise RestError(
                "ABORTED", "There were concurrent policy changes. Please retry the whole read-modify-write."
            )
        bindings = [dict(binding) for binding in policy.get("bindings", []) if binding.get("members")]
        for binding in bindings:
            if not str(binding.get("role", "")).startswith(("roles/", "projects/", "organizations/")):
                raise invalid(f"Role {binding.get('role')} is not supported for this resource.")
            for member in binding["members"]:
                self._check_member(member)
        self.policies[name] = {"version": policy.get("version", 1), "bindings": bindings, "etag": _etag()}
        return self.policies[name]

    def _check_member(self, member: str) -> None:
        kind, _, email = member.partition(":")
        if kind not in ("user", "serviceAccount", "group", "domain", "deleted", "allUsers", "projectOwner"):
            raise invalid(f"Invalid member: {member}")
        own = kind == "serviceAccount" and email.endswith(f"@{self.project}.iam.gserviceaccount.com")
        if own and self.account(email) is None:
            raise invalid(f"Service account {email} does not exist.")

    def drop_account(self, account: Mapping[str, Any]) -> None:
        """A deleted account stays in policies under another name."""
        old, gone = f"serviceAccount:{account['email']}", f"deleted:serviceAccount:{account['email']}?uid="
        for policy in self.policies.values():
            for binding in policy.get("bindings", []):
                binding["members"] = [gone + account["uniqueId"] if m == old else m for m in binding["members"]]

    def operation(self, parent: str, response: Mapping[str, Any], error: str | None = None) -> Resource:
        """Under way when it is first seen, done at the next look."""
        name = f"{parent}/operations/{uuid.uuid4()}"
        outcome = {"error": {"code": 13, "message": error}} if error else {"response": copy.deepcopy(dict(response))}
        self.operations[name] = {"name": name, "done": True, **outcome}
        return {"name": name, "done": False, "metadata": {}}


def _etag() -> str:
    return uuid.uuid4().hex[:12]
