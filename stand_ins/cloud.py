"""All the stand-ins of one project; each starts when it is first asked for, and is gone when the block ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from stand_ins.faults import Faults
from stand_ins.serving import served

if TYPE_CHECKING:
    from stand_ins.admin import AdminStandIn
    from stand_ins.bigquery import BigQueryStandIn
    from stand_ins.functions import Functions
    from stand_ins.pubsub import PubSubStandIn
    from stand_ins.storage import StorageStandIn
    from stand_ins.vertex import VertexStandIn

_BIGQUERY = ("/bigquery/", "/upload/bigquery/", "/resumable/upload/bigquery/")
_STORAGE = ("/storage/", "/upload/storage/", "/resumable/upload/storage/", "/download/storage/", "/batch/storage/")
_POLICY = re.compile(r"/b/[^/]+/iam(/testPermissions)?$|:(get|set|test)Iam[A-Za-z]+$")


class Cloud:
    """Args:
    folder: where everything is kept; a new Cloud over the same folder goes on with it.
    ports: of "rest", "pubsub" and "vertex" (its proxy); a free one where none is given.
    runs: variables of what is deployed, e.g. BANDIT_HOME; given, functions really run and steps find the stand-ins.
    """

    def __init__(
        self,
        folder: Path,
        project: str = "test-project",
        region: str = "europe-west1",
        host: str = "127.0.0.1",
        ports: Mapping[str, int] | None = None,
        *,
        runs: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.project = project
        self.region = region
        self._host = host
        self._ports = ports or {}
        self._runs = None if runs is None else dict(runs)
        self.faults = Faults()
        self._handles = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    @cached_property
    def bigquery(self) -> BigQueryStandIn:
        from stand_ins.bigquery import BigQueryStandIn

        return self._handles.enter_context(BigQueryStandIn(self.folder / "bigquery", self.project, self.faults))

    @cached_property
    def storage(self) -> StorageStandIn:
        from stand_ins.storage import StorageStandIn

        return self._handles.enter_context(StorageStandIn(self.folder / "storage", self.faults))

    @cached_property
    def admin(self) -> AdminStandIn:
        """Functions, Scheduler, Artifact Registry, IAM, Resource Manager; the policies of buckets and tables too."""
        from stand_ins.admin import AdminStandIn, Hooks
        from stand_ins.admin.elsewhere import exists

        hooks = Hooks(exists=lambda name: exists(name, lambda: self.rest_url, lambda: self.pubsub.address))
        if self._runs is not None:
            hooks.deployed = self.functions.deploy
            hooks.deleted = self._function_deleted
        return self._handles.enter_context(AdminStandIn(self.project, self.faults, hooks))

    @cached_property
    def pubsub(self) -> PubSubStandIn:
        from stand_ins.pubsub import PubSubStandIn

        return self._handles.enter_context(
            PubSubStandIn(self.folder / "pubsub", self.faults, self._host, self._ports.get("pubsub", 0))
        )

    @cached_property
    def functions(self) -> Functions:
        """The processes of deployed functions."""
        from stand_ins.functions import Functions, push_to, subscription_of

        def fetch(bucket: str, name: str) -> bytes:
            path = f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
            return httpx.get(f"{self.rest_url}{path}", params={"alt": "media"}).raise_for_status().content

        def subscribe(name: str, topic: str, url: str) -> None:
            push_to(self.pubsub.address, subscription_of(name, self.project), topic, url)

        functions = Functions(
            self.folder / "functions", fetch, subscribe, lambda: self.environment() | (self._runs or {})
        )
        self._handles.callback(functions.close)
        return functions

    def _function_deleted(self, function: Mapping[str, Any]) -> None:
        from stand_ins.functions import end_push, subscription_of

        self.functions.delete(str(function["name"]))
        end_push(self.pubsub.address, subscription_of(str(function["name"]), self.project))

    @cached_property
    def vertex(self) -> VertexStandIn:
        from stand_ins.vertex import VertexStandIn

        vertex = self._handles.enter_context(
            VertexStandIn(
                self.folder / "vertex",
                self.region,
                self.faults,
                self._host,
                self._ports.get("vertex", 0),
                project=self.project,
            )
        )
        if self._runs is not None:
            vertex.step_environment.update(self.environment("rest", "pubsub") | self._runs)
        return vertex

    @cached_property
    def rest_url(self) -> str:
        return self._handles.enter_context(served(self._rest, self._host, self._ports.get("rest", 0)))

    def environment(self, *services: str) -> dict[str, str]:
        """The variables that lead the real clients here; of all services where none are named."""
        wanted = set(services or ("rest", "pubsub", "vertex"))
        variables = {}
        if "rest" in wanted:
            variables["BANDIT_GOOGLE_ENDPOINT"] = self.rest_url
        if "pubsub" in wanted:
            variables["BANDIT_PUBSUB_EMULATOR_HOST"] = self.pubsub.address
        if "vertex" in wanted:
            variables |= self.vertex.environment
        return variables

    async def _rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        app: ASGIApp
        if _POLICY.search(path):
            app = self.admin.app
        elif path.startswith(_BIGQUERY):
            app = self.bigquery.app
        elif path.startswith(_STORAGE):
            app = self.storage.app
        else:
            app = self.admin.app
        await app(scope, receive, send)
