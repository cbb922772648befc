"""Vertex ML Metadata over gRPC: contexts, artifacts and executions of the store `default`, kept in a JSON file.

The pipeline stand-in tells `MetadataState` what a run is and what it measured, as Vertex does by itself.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import any_pb2

from stand_ins.faults import Faults
from stand_ins.grpc_service import ApiError, Rpc, not_found, service

_STORE = re.compile(r"(projects/[^/]+/locations/[^/]+)/metadataStores/default")
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
_KINDS: dict[str, Any] = {"contexts": v1.Context, "artifacts": v1.Artifact, "executions": v1.Execution}
_LOCK = threading.RLock()


class MetadataState:
    """What is stored: `{"stores": […], "resources": {name: JSON}, "members": {context: [artifact or execution]}}`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "metadata.json"
        folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, Any]:
        with _LOCK:
            if not self._file.exists():
                return {"stores": [], "resources": {}, "members": {}}
            loaded: dict[str, Any] = json.loads(self._file.read_bytes())
            return loaded

    def write(self, state: dict[str, Any]) -> None:
        with _LOCK:
            partial = self._file.with_suffix(".partial")
            partial.write_text(json.dumps(state))
            partial.replace(self._file)

    def get(self, name: str) -> Any:
        kept = self.read()["resources"].get(name)
        return not_found(name) if kept is None else _load(name, kept)

    def put(self, resource: Any, *, new: bool) -> Any:
        with _LOCK:
            state = self.read()
            store = resource.name.split("/metadataStores/")[0] + "/metadataStores/default"
            if store not in state["stores"]:
                not_found(store)
            if new and resource.name in state["resources"]:
                raise ApiError(grpc.StatusCode.ALREADY_EXISTS, f"{resource.name} already exists")
            state["resources"][resource.name] = json.loads(type(resource).to_json(resource, indent=None))
            self.write(state)
        return resource

    def add_store(self, name: str) -> None:
        with _LOCK:
            state = self.read()
            if name in state["stores"]:
                raise ApiError(grpc.StatusCode.ALREADY_EXISTS, f"{name} already exists")
            state["stores"].append(name)
            self.write(state)

    def drop(self, name: str) -> None:
        with _LOCK:
            state = self.read()
            if state["resources"].pop(name, None) is None:
                not_found(name)
            state["members"].pop(name, None)
            self.write(state)

    def add_members(self, context: str, members: list[str]) -> None:
        with _LOCK:
            state = self.read()
            for name in (context, *members):
                if name not in state["resources"]:
                    not_found(name)
            kept = state["members"].setdefault(context, [])
            kept += [member for member in members if member not in kept]
            self.write(state)

    def members(self, context: str, kind: str) -> list[Any]:
        return [self.get(name) for name in self.read()["members"].get(context, []) if f"/{kind}/" in name]

    def listed(self, parent: str, kind: str) -> Iterator[Any]:
        prefix = f"{parent}/{kind}/"
        yield from (_load(name, kept) for name, kept in self.read()["resources"].items() if name.startswith(prefix))

    def pipeline_run(self, job_name: str, pipeline: str, inputs: Mapping[str, Any]) -> Any:
        """What Vertex notes of a run when it begins; `job_name` in full. Gives the run's context."""
        location, _, job_id = job_name.partition("/pipelineJobs/")
        store = f"{location}/metadataStores/default"
        with _LOCK:
            if store not in self.read()["stores"]:
                self.add_store(store)
            whole = v1.Context(
                name=f"{store}/contexts/{pipeline}",
                display_name=pipeline,
                schema_title="system.Pipeline",
                schema_version="0.0.1",
            )
            self.put(whole, new=False)
            run = v1.Context(
                name=f"{store}/contexts/{job_id}",
                display_name=job_id,
                schema_title="system.PipelineRun",
                schema_version="0.0.1",
                parent_contexts=[whole.name],
            )
            self.put(run, new=False)
            execution = v1.Execution(
                name=f"{store}/executions/{job_id}",
                display_name=job_id,
                schema_title="system.Run",
                schema_version="0.0.1",
                metadata={f"input:{name}": value for name, value in inputs.items()},
            )
            self.put(execution, new=False)
            self.add_members(run.name, [execution.name])
        return run

    def pipeline_metrics(self, run: str, name: str, metrics: Mapping[str, Any]) -> None:
        """A `system.Metrics` artefact of the run whose context is `run`."""
        store, _, job_id = run.partition("/contexts/")
        artifact = v1.Artifact(
            name=f"{store}/artifacts/{job_id}-{name}",
            display_name=name,
            schema_title="system.Metrics",
            schema_version="0.0.1",
            metadata=dict(metrics),
        )
        with _LOCK:
            self.put(artifact, new=False)
            self.add_members(run, [artifact.name])


def metadata_service(folder: Path, faults: Faults) -> grpc.GenericRpcHandler:
    state = MetadataState(folder)

    def create_store(request: Any) -> operations_pb2.Operation:
        name = f"{request.parent}/metadataStores/{request.metadata_store_id}"
        if _STORE.fullmatch(name) is None:
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"{name}: this stand-in keeps the store default only")
        state.add_store(name)
        return _done(name, v1.MetadataStore(name=name))

    def get_store(request: Any) -> Any:
        return (
            v1.MetadataStore(name=request.name) if request.name in state.read()["stores"] else not_found(request.name)
        )

    def create_context(request: Any) -> Any:
        if _ID.fullmatch(request.context_id) is None:
            raise ApiError(
                grpc.StatusCode.INVALID_ARGUMENT, f"context_id {request.context_id!r} must match {_ID.pattern}"
            )
        if request.context.parent_contexts:
            raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "parent_contexts is output only")
        request.context.name = f"{request.parent}/contexts/{request.context_id}"
        return state.put(request.context, new=True)

    def delete_context(request: Any) -> operations_pb2.Operation:
        state.drop(request.name)
        return _done(request.name, None)

    def list_contexts(request: Any) -> Any:
        found = [c for c in state.listed(request.parent, "contexts") if _matches(request.filter, c, c.parent_contexts)]
        return v1.ListContextsResponse(contexts=found)

    def add_children(request: Any) -> Any:
        with _LOCK:
            state.get(request.context)
            for name in request.child_contexts:
                child = state.get(name)
                if request.context not in child.parent_contexts:
                    child.parent_contexts.append(request.context)
                    state.put(child, new=False)
        return v1.AddContextChildrenResponse()

    def lineage(request: Any) -> Any:
        state.get(request.context)
        return v1.LineageSubgraph(
            artifacts=state.members(request.context, "artifacts"),
            executions=state.members(request.context, "executions"),
        )

    def of_kind(kind: str) -> Any:
        def listed(request: Any) -> Any:
            members = state.read()["members"]
            homes = {name: [c for c, inside in members.items() if name in inside] for name in state.read()["resources"]}
            found = [
                one for one in state.listed(request.parent, kind) if _matches(request.filter, one, homes[one.name])
            ]
            answer = v1.ListArtifactsResponse if kind == "artifacts" else v1.ListExecutionsResponse
            return answer(**{kind: found})

        return listed

    get = lambda request: state.get(request.name)  # noqa: E731
    operation = operations_pb2.Operation
    rpcs = {
        "CreateMetadataStore": Rpc(create_store, v1.CreateMetadataStoreRequest, operation),
        "GetMetadataStore": Rpc(get_store, v1.GetMetadataStoreRequest, v1.MetadataStore),
        "CreateContext": Rpc(create_context, v1.CreateContextRequest, v1.Context),
        "GetContext": Rpc(get, v1.GetContextRequest, v1.Context),
        "DeleteContext": Rpc(delete_context, v1.DeleteContextRequest, operation),
        "ListContexts": Rpc(list_contexts, v1.ListContextsRequest, v1.ListContextsResponse),
        "AddContextChildren": Rpc(add_children, v1.AddContextChildrenRequest, v1.AddContextChildrenResponse),
        "QueryContextLineageSubgraph": Rpc(lineage, v1.QueryContextLineageSubgraphRequest, v1.LineageSubgraph),
        "GetArtifact": Rpc(get, v1.GetArtifactRequest, v1.Artifact),
        "ListArtifacts": Rpc(of_kind("artifacts"), v1.ListArtifactsRequest, v1.ListArtifactsResponse),
        "ListExecutions": Rpc(of_kind("executions"), v1.ListExecutionsRequest, v1.ListExecutionsResponse),
    }
    return service("google.cloud.aiplatform.v1.MetadataService", rpcs, faults)


def _matches(filter: str, resource: Any, homes: Any) -> bool:
    """AND of schema_title="…", in_context("…"), parent_contexts:"…"; groups in parentheses are ORs of one term."""
    for term in re.split(r"\s+AND\s+", filter.strip()) if filter.strip() else []:
        alternatives = [part.strip(" ()") for part in re.split(r"\s+OR\s+", term)]
        if not any(_term(one, resource, homes) for one in alternatives):
            return False
    return True


def _term(term: str, resource: Any, homes: Any) -> bool:
    found = re.fullmatch(r'(schema_title|in_context|parent_contexts)\s*[=:(]\s*"([^"]*)"\)?', term)
    if found is None:
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"filter {term!r} is not one that this stand-in knows")
    field, value = found.groups()
    return bool(resource.schema_title == value) if field == "schema_title" else value in homes


def _load(name: str, kept: dict[str, Any]) -> Any:
    return _KINDS[name.split("/")[-2]].from_json(json.dumps(kept))


def _done(name: str, response: Any) -> operations_pb2.Operation:
    packed = any_pb2.Any()
    if response is not None:
        packed.Pack(type(response).pb(response))
    else:
        packed.type_url = "type.googleapis.com/google.protobuf.Empty"
    return operations_pb2.Operation(name=f"{name}/operations/1", done=True, response=packed)
