"""The gRPC server behind the proxy, and the services it has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import grpc

from stand_ins.faults import Faults
from stand_ins.vertex.certificates import authority, credentials
from stand_ins.vertex.endpoints import Endpoints
from stand_ins.vertex.models import Models
from stand_ins.vertex.operations import Operations
from stand_ins.vertex.pipelines import Pipelines
from stand_ins.vertex.prediction import prediction_service
from stand_ins.vertex.proxy import Proxy

_OTHERS = {"metadata": "metadata_service"}
_LOOPBACK = "127.0.0.1,localhost,::1"


class VertexStandIn:
    """Vertex AI of one region. While it is entered, the clients of this process are led to it too.

    Args:
        folder: jobs and resources, kept for the next stand-in over the same folder.
        host, port: of the proxy.

    Attributes:
        pipelines: the jobs, for those who look at them or decide what becomes of them.
        models, endpoints: what is registered and deployed.
        services: more of them; append before entering.
        step_environment: further variables of the steps of a pipeline and of containers, e.g. `Cloud.environment()`.
    """

    def __init__(
        self,
        folder: Path,
        region: str,
        faults: Faults,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        project: str = "test-project",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.region_host = f"{region}-aiplatform.googleapis.com"
        self.operations = Operations()
        self.pipelines = Pipelines(folder, project, region, faults, self.operations)
        self.models = Models(folder, self.operations)
        self.endpoints = Endpoints(folder, self.models, self.operations, self.step_environment)
        self.services: list[grpc.GenericRpcHandler] = []
        self._faults = faults
        self._address = host, port
        self._handles = ExitStack()

    @property
    def step_environment(self) -> dict[str, str]:
        return self.pipelines.step_environment

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead the real clients here, in whichever process."""
        return {
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str((self.folder / "ca.pem").absolute()),
            "grpc_proxy": self.proxy.url,
            "no_grpc_proxy": _LOOPBACK,
        }

    def __enter__(self) -> Self:
        server = grpc.server(ThreadPoolExecutor(max_workers=16, thread_name_prefix="vertex"))
        server.add_generic_rpc_handlers((*self._services(), *self.services))
        port = server.add_secure_port("127.0.0.1:0", credentials(authority(self.folder), self.region_host))
        self._handles.enter_context(self.pipelines)
        self._handles.enter_context(self.endpoints)
        server.start()
        self._handles.callback(lambda: server.stop(grace=0).wait(timeout=10))
        self.proxy = self._handles.enter_context(Proxy(self.region_host, port, self._faults, *self._address))
        self._faults.connections.append(self.proxy.drop)
        self._handles.callback(self._faults.connections.remove, self.proxy.drop)
        self._handles.enter_context(_environment(self.environment))
        self.step_environment.update(self.environment)
        return self

    def __exit__(self, *_: object) -> None:
        self._handles.close()

    def _services(self) -> list[grpc.GenericRpcHandler]:
        found = [
            self.pipelines.service(),
            self.operations.service(self._faults),
            self.models.service(self._faults),
            self.endpoints.service(self._faults),
            prediction_service(self.endpoints, self._faults),
        ]
        for module, maker in _OTHERS.items():
            if find_spec(f"stand_ins.vertex.{module}"):
                found.append(getattr(import_module(f"stand_ins.vertex.{module}"), maker)(self.folder, self._faults))
        return found


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
