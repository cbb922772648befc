"""A call of a REST API: whose, of which method, on which resource."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stand_ins.admin.discovery import Method
from stand_ins.admin.world import World

_VERBS = {"patch": "update", "list": "list", "batchGet": "get"}


@dataclass(frozen=True)
class Call:
    """`name` is the full resource name that the path holds, e.g. "projects/p/locations/r/functions/f"."""

    world: World
    method: Method
    path: str
    query: Mapping[str, list[str]]
    body: Mapping[str, Any]
    principal: str

    @property
    def verb(self) -> str:
        return self.method.id.rpartition(".")[2]

    def option(self, name: str) -> str | None:
        """The value of a query parameter that is given once at most."""
        return next(iter(self.query.get(name, [])), None)

    @property
    def collection(self) -> str:
        """E.g. "functions" or "serviceAccounts"."""
        return self.method.id.split(".")[-2]

    @property
    def name(self) -> str:
        bare = re.sub(r"^/(storage/|bigquery/)?v\d+/", "", self.path)
        if self.method.service == "storage.v1":
            return "b/" + bare.split("/")[1]
        return bare.partition(":")[0].replace("projects/-/", f"projects/{self.world.project}/")

    @property
    def parent(self) -> str:
        return self.name.removesuffix(f"/{self.collection}")

    @property
    def permission(self) -> str:
        """E.g. "cloudfunctions.functions.create"."""
        service = self.method.service.partition(".")[0].replace("cloudresourcemanager", "resourcemanager")
        return f"{service}.{self.collection}.{_VERBS.get(self.verb, self.verb)}"
