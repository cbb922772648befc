"""`google.cloud.aiplatform.v1.EndpointService`: endpoints, what is deployed to them, and how the traffic is split."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2

from stand_ins.faults import Faults
from stand_ins.grpc_service import Rpc, not_found, service
from stand_ins.vertex.containers import Container
from stand_ins.vertex.models import Models, check_labels, refuse
from stand_ins.vertex.operations import Operations

_ENDPOINT_ID = re.compile(r"[a-z][a-z0-9-]{0,62}|[0-9]{1,10}")
_DEPLOYED_ID = re.compile(r"[0-9]{1,10}")
_CONDITION = re.compile(r'(display_name|labels\.[a-z0-9_-]+)="([^"]*)"')


class Endpoints:
    """Kept in `folder`; the containers start again when they are first asked for.

    Args:
        environment: of every container, beside what its model says.

    Attributes:
        healthy_within_s: how long a deployment waits for its container.
    """

    def __init__(self, folder: Path, models: Models, operations: Operations, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._file = folder / "endpoints.json"
        self._models = models
        self._operations = operations
        self._environment = environment
        self._lock = threading.RLock()
        kept = json.loads(self._file.read_text()) if self._file.exists() else []
        self._endpoints = {one.name: one for one in (v1.Endpoint.from_json(text) for text in kept)}
        self._deploying: set[tuple[str, str]] = set()
        self._containers: dict[tuple[str, str], list[Container]] = {}
        self._closed = False
        self.healthy_within_s = 60.0
        models.in_use = self._in_use

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            running = [container for containers in self._containers.values() for container in containers]
            self._containers.clear()
        for container in running:
            container.stop()

    def find(self, name: str) -> v1.Endpoint:
        with self._lock:
            return self._endpoints[name] if name in self._endpoints else not_found(name)

    def containers(self, name: str, deployed_id: str) -> list[Container]:
        """The running replicas of a deployed model."""
        with self._lock:
            if (name, deployed_id) not in self._containers:
                deployed = next(one for one in self.find(name).deployed_models if one.id == deployed_id)
                self._start(name, deployed)
            return list(self._containers[name, deployed_id])

    def service(self, faults: Faults) -> grpc.GenericRpcHandler:
        operation = operations_pb2.Operation
        rpcs = {
            "CreateEndpoint": Rpc(self._create, v1.CreateEndpointRequest, operation),
            "GetEndpoint": Rpc(lambda request: self.find(request.name), v1.GetEndpointRequest, v1.Endpoint),
            "ListEndpoints": Rpc(self._list, v1.ListEndpointsRequest, v1.ListEndpointsResponse),
            "UpdateEndpoint": Rpc(self._update, v1.UpdateEndpointRequest, v1.Endpoint),
            "DeleteEndpoint": Rpc(self._delete, v1.DeleteEndpointRequest, operation),
            "DeployModel": Rpc(self._deploy, v1.DeployModelRequest, operation),
            "UndeployModel": Rpc(self._undeploy, v1.UndeployModelRequest, operation),
        }
        return service("google.cloud.aiplatform.v1.EndpointService", rpcs, faults)

    def _create(self, request: v1.CreateEndpointRequest) -> operations_pb2.Operation:
        made = v1.Endpoint(request.endpoint)
        if not made.display_name:
            raise refuse("endpoint.display_name is required")
        if made.deployed_models or made.traffic_split:
            raise refuse("deployed_models and traffic_split can not be set here")
        check_labels(made.labels)
        endpoint_id = request.endpoint_id or str(uuid.uuid4().int % 10**10)
        if not _ENDPOINT_ID.fullmatch(endpoint_id):
            raise refuse(f"endpoint_id {endpoint_id!r} must match {_ENDPOINT_ID.pattern}")
        made.name = f"{request.parent}/endpoints/{endpoint_id}"
        made.create_time = datetime.now(UTC)
        with self._lock:
            if made.name in self._endpoints:
                raise refuse(f"Endpoint {made.name} already exists", grpc.StatusCode.ALREADY_EXISTS)
            self._keep(made)
        return self._operations.done(made.name, made)

    def _list(self, request: v1.ListEndpointsRequest) -> v1.ListEndpointsResponse:
        conditions = []
        for part in filter(None, request.filter.split(" AND ")):
            if (match := _CONDITION.fullmatch(part.strip())) is None:
                raise refuse(f"filter: can not parse {part!r}")
            conditions.append(match.groups())

        def value(endpoint: v1.Endpoint, field: str) -> Any:
            label = field.partition(".")[2]
            return endpoint.labels.get(label) if label else endpoint.display_name

        with self._lock:
            found = [
                endpoint
                for name, endpoint in self._endpoints.items()
                if name.startswith(f"{request.parent}/endpoints/")
                and all(value(endpoint, field) == wanted for field, wanted in conditions)
            ]
        return v1.ListEndpointsResponse(endpoints=found)

    def _update(self, request: v1.UpdateEndpointRequest) -> v1.Endpoint:
        with self._lock:
            endpoint = self.find(request.endpoint.name)
            if request.endpoint.etag and request.endpoint.etag != endpoint.etag:
                raise refuse("the endpoint was changed since it was read", grpc.StatusCode.ABORTED)
            for path in request.update_mask.paths:
                if path not in ("display_name", "description", "labels", "traffic_split"):
                    raise refuse(f"update_mask: {path} can not be changed")
                if path == "traffic_split":
                    _check_split(request.endpoint.traffic_split, (one.id for one in endpoint.deployed_models))
                setattr(endpoint, path, getattr(request.endpoint, path))
            self._keep(endpoint)
            return endpoint

    def _delete(self, request: v1.DeleteEndpointRequest) -> operations_pb2.Operation:
        with self._lock:
            if self.find(request.name).deployed_models:
                raise refuse(f"{request.name} has deployed models", grpc.StatusCode.FAILED_PRECONDITION)
            del self._endpoints[request.name]
            self._write()
        return self._operations.done(request.name)

    def _deploy(self, request: v1.DeployModelRequest) -> operations_pb2.Operation:
        """A request repeated deploys a second copy, as Vertex does, unless it names its id."""
        wanted = v1.DeployedModel(request.deployed_model)
        model = self._models.find(wanted.model)
        resources = wanted.dedicated_resources
        if not resources.machine_spec.machine_type or resources.min_replica_count < 1:
            raise refuse("dedicated_resources need a machine type and at least one replica")
        wanted.id = wanted.id or str(uuid.uuid4().int % 10**10)
        if not _DEPLOYED_ID.fullmatch(wanted.id):
            raise refuse(f"deployed_model.id {wanted.id!r} must match {_DEPLOYED_ID.pattern}")
        wanted.model, wanted.model_version_id = model.name, model.version_id
        split = dict(request.traffic_split)
        with self._lock:
            endpoint = self.find(request.endpoint)
            there = [one.id for one in endpoint.deployed_models]
            key = (endpoint.name, wanted.id)
            if wanted.id in there or key in self._deploying:
                raise refuse(f"deployed model {wanted.id} already exists", grpc.StatusCode.ALREADY_EXISTS)
            if endpoint.network and there:
                raise refuse("a private endpoint holds one deployed model", grpc.StatusCode.FAILED_PRECONDITION)
            _check_split(split, [*there, "0"])
            self._deploying.add(key)
        return self._operations.running(endpoint.name, lambda: self._deployed(endpoint.name, wanted, split))

    def _deployed(self, name: str, deployed: v1.DeployedModel, split: dict[str, int]) -> v1.DeployModelResponse:
        try:
            self._start(name, deployed)
            with self._lock:
                endpoint = self.find(name)
                deployed.create_time = datetime.now(UTC)
                endpoint.deployed_models.append(deployed)
                if split:
                    endpoint.traffic_split = {deployed.id if one == "0" else one: share for one, share in split.items()}
                self._keep(endpoint)
        finally:
            self._deploying.discard((name, deployed.id))
        return v1.DeployModelResponse(deployed_model=deployed)

    def _undeploy(self, request: v1.UndeployModelRequest) -> operations_pb2.Operation:
        with self._lock:
            endpoint = self.find(request.endpoint)
            gone = request.deployed_model_id
            staying = [one for one in endpoint.deployed_models if one.id != gone]
            if len(staying) == len(endpoint.deployed_models):
                not_found(f"deployed model {gone} of {endpoint.name}")
            split = dict(request.traffic_split) or dict(endpoint.traffic_split)
            if not staying:
                split = {}
            elif split.get(gone):
                raise refuse(f"{gone} has traffic assigned to it", grpc.StatusCode.FAILED_PRECONDITION)
            split.pop(gone, None)
            _check_split(split, (one.id for one in staying))
            endpoint.deployed_models, endpoint.traffic_split = staying, split
            self._keep(endpoint)
            stopped = self._containers.pop((endpoint.name, gone), [])
        for container in stopped:
            container.stop()
        return self._operations.done(endpoint.name, v1.UndeployModelResponse())

    def _start(self, name: str, deployed: v1.DeployedModel) -> None:
        """Start and await the replicas. Raises ApiError, and then none is left."""
        model = self._models.find(f"{deployed.model}@{deployed.model_version_id}")
        with self._lock:
            if self._closed:
                raise refuse("the stand-in is closing", grpc.StatusCode.CANCELLED)
            started = self._containers[name, deployed.id] = [
                Container(model, self._folder / "containers" / f"{deployed.id}-{number}", self._environment)
                for number in range(deployed.dedicated_resources.min_replica_count)
            ]
        try:
            for container in started:
                container.wait_healthy(self.healthy_within_s)
        except Exception:
            with self._lock:
                self._containers.pop((name, deployed.id), None)
            for container in started:
                container.stop()
            raise

    def _in_use(self, version: str) -> bool:
        with self._lock:
            deployed = [one for endpoint in self._endpoints.values() for one in endpoint.deployed_models]
            return any(version == f"{one.model}@{one.model_version_id}" for one in deployed)

    def _keep(self, endpoint: v1.Endpoint) -> None:
        endpoint.etag = uuid.uuid4().hex
        endpoint.update_time = datetime.now(UTC)
        self._endpoints[endpoint.name] = endpoint
        self._write()

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps([v1.Endpoint.to_json(one) for one in self._endpoints.values()]))


def _check_split(split: Mapping[str, int], known: Iterable[str]) -> None:
    if unknown := sorted(set(split) - set(known)):
        raise refuse(f"traffic_split: {unknown[0]} is not deployed here")
    if split and sum(split.values()) != 100:
        raise refuse(f"traffic_split adds up to {sum(split.values())}, not 100")
