"""All the stand-ins of one project; each starts when it is first asked for, and is gone when the block ends."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from starlette.types import ASGIApp, Receive, Scope, Send

from stand_ins.faults import Faults
from stand_ins.serving import served

if TYPE_CHECKING:
    from stand_ins.admin import AdminStandIn
    from stand_ins.bigquery import BigQueryStandIn
    from stand_ins.pubsub import PubSubStandIn
    from stand_ins.storage import StorageStandIn
    from stand_ins.vertex import VertexStandIn

_BIGQUERY = ("/bigquery/", "/upload/bigquery/", "/resumable/upload/bigquery/")
_STORAGE = ("/storage/", "/upload/storage/", "/resumable/upload/storage/", "/download/storage/", "/batch/storage/")


class Cloud:
    """Args:
    folder: where everything is kept; a new Cloud over the same folder goes on with it.
    ports: of "rest", "pubsub" and "vertex" (its proxy); a free one where none is given.
    """

    def __init__(
        self,
        folder: Path,
        project: str = "test-project",
        region: str = "europe-west1",
        host: str = "127.0.0.1",
        ports: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.project = project
        self.region = region
        self._host = host
        self._ports = ports or {}
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
        """Functions, Scheduler, Artifact Registry, IAM, Resource Manager."""
        from stand_ins.admin import AdminStandIn

        return self._handles.enter_context(AdminStandIn(self.project, self.faults))

    @cached_property
    def pubsub(self) -> PubSubStandIn:
        from stand_ins.pubsub import PubSubStandIn

        return self._handles.enter_context(
            PubSubStandIn(self.folder / "pubsub", self.faults, self._host, self._ports.get("pubsub", 0))
        )

    @cached_property
    def vertex(self) -> VertexStandIn:
        from stand_ins.vertex import VertexStandIn

        return self._handles.enter_context(
            VertexStandIn(
                self.folder / "vertex",
                self.region,
                self.faults,
                self._host,
                self._ports.get("vertex", 0),
                project=self.project,
            )
        )

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
        if path.startswith(_BIGQUERY):
            app = self.bigquery.app
        elif path.startswith(_STORAGE):
            app = self.storage.app
        else:
            app = self.admin.app
        await app(scope, receive, send)
