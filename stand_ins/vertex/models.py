"""`google.cloud.aiplatform.v1.ModelService`: models, their versions, and the aliases of those."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2

from stand_ins.faults import Faults
from stand_ins.grpc_service import ApiError, Rpc, not_found, service
from stand_ins.vertex.operations import Operations

_MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")


def refuse(message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> ApiError:
    return ApiError(code, message)


def check_labels(labels: Any) -> None:
    for name, value in labels.items():
        if not _LABEL.fullmatch(name) or not _LABEL.fullmatch(value) or not name[:1].isalpha():
            raise refuse(f"Label {name}={value!r}: only [a-z0-9_-], at most 63, beginning with a letter")


class Models:
    """Kept in `folder`. `in_use` tells whether a version, "<model>@<id>", is deployed somewhere."""

    def __init__(self, folder: Path, operations: Operations) -> None:
        self._file = folder / "models.json"
        self._operations = operations
        self._lock = threading.RLock()
        kept = json.loads(self._file.read_text()) if self._file.exists() else []
        self._versions: list[v1.Model] = [v1.Model.from_json(text) for text in kept]
        self.in_use: Callable[[str], bool] = lambda _: False

    def find(self, name: str) -> v1.Model:
        """By "<model>", "<model>@<id>" or "<model>@<alias>"."""
        model, _, which = name.partition("@")
        with self._lock:
            for version in self._of(model):
                aliases = {version.version_id, *version.version_aliases}
                if (which or "default") in aliases:
                    return version
        return not_found(name)

    def versions(self, name: str) -> list[v1.Model]:
        """Of one model, in the order of their upload; none where there is no model."""
        with self._lock:
            return list(self._of(name))

    def service(self, faults: Faults) -> grpc.GenericRpcHandler:
        operation = operations_pb2.Operation
        rpcs = {
            "UploadModel": Rpc(self._upload, v1.UploadModelRequest, operation),
            "GetModel": Rpc(lambda request: self.find(request.name), v1.GetModelRequest, v1.Model),
            "ListModels": Rpc(self._list, v1.ListModelsRequest, v1.ListModelsResponse),
            "ListModelVersions": Rpc(self._list_versions, v1.ListModelVersionsRequest, v1.ListModelVersionsResponse),
            "UpdateModel": Rpc(self._update, v1.UpdateModelRequest, v1.Model),
            "DeleteModel": Rpc(self._delete, v1.DeleteModelRequest, operation),
            "DeleteModelVersion": Rpc(self._delete_version, v1.DeleteModelVersionRequest, operation),
            "MergeVersionAliases": Rpc(self._merge, v1.MergeVersionAliasesRequest, v1.Model),
        }
        return service("google.cloud.aiplatform.v1.ModelService", rpcs, faults)

    def _of(self, name: str) -> list[v1.Model]:
        return [version for version in self._versions if version.name == name]

    def _upload(self, request: v1.UploadModelRequest) -> operations_pb2.Operation:
        made = v1.Model(request.model)
        if not made.display_name or not made.container_spec.image_uri:
            raise refuse("model.display_name and model.container_spec.image_uri are required")
        check_labels(made.labels)
        with self._lock:
            if request.parent_model:
                name = request.parent_model.partition("@")[0]
                if not self._of(name):
                    not_found(name)
            else:
                model_id = request.model_id or f"{len(self._versions) + 1000}"
                if request.model_id and not _MODEL_ID.fullmatch(model_id):
                    raise refuse(f"model_id {model_id!r} must match {_MODEL_ID.pattern}")
                name = f"{request.parent}/models/{model_id}"
                if self._of(name):
                    raise refuse(f"Model {name} already exists", grpc.StatusCode.ALREADY_EXISTS)
            known = self._of(name)
            made.name, made.version_id = name, str(max((int(one.version_id) for one in known), default=0) + 1)
            aliases = [*made.version_aliases, *([] if known else ["default"])]
            made.version_aliases = []
            self._alias(made, aliases)
            made.create_time = made.version_create_time = made.update_time = datetime.now(UTC)
            self._versions.append(made)
            self._keep()
        answer = v1.UploadModelResponse(model=made.name, model_version_id=made.version_id)
        return self._operations.done(name, answer)

    def _list(self, request: v1.ListModelsRequest) -> v1.ListModelsResponse:
        with self._lock:
            inside = [one for one in self._versions if one.name.startswith(f"{request.parent}/models/")]
            return v1.ListModelsResponse(models=[one for one in inside if "default" in one.version_aliases])

    def _list_versions(self, request: v1.ListModelVersionsRequest) -> v1.ListModelVersionsResponse:
        with self._lock:
            found = self._of(request.name) or not_found(request.name)
            start, size = int(request.page_token or 0), request.page_size or 50
            following = str(start + size) if start + size < len(found) else ""
            return v1.ListModelVersionsResponse(models=found[start : start + size], next_page_token=following)

    def _update(self, request: v1.UpdateModelRequest) -> v1.Model:
        with self._lock:
            model = self.find(request.model.name)
            for path in request.update_mask.paths:
                if path not in ("display_name", "description", "labels"):
                    raise refuse(f"update_mask: {path} can not be changed")
                setattr(model, path, getattr(request.model, path))
            check_labels(model.labels)
            self._keep()
            return model

    def _merge(self, request: v1.MergeVersionAliasesRequest) -> v1.Model:
        with self._lock:
            if "@" not in request.name:
                raise refuse("name must include a version: models/<model>@<version>")
            model = self.find(request.name)
            taken = {alias[1:] for alias in request.version_aliases if alias.startswith("-")}
            model.version_aliases = [alias for alias in model.version_aliases if alias not in taken]
            self._alias(model, [alias for alias in request.version_aliases if not alias.startswith("-")])
            self._keep()
            return model

    def _alias(self, model: v1.Model, aliases: list[str]) -> None:
        """Whether Vertex would move an alias that another version has is not documented: nobody may count on it."""
        for alias in aliases:
            if not _ALIAS.fullmatch(alias):
                raise refuse(f"version alias {alias!r} must match {_ALIAS.pattern}")
            if holder := next((one for one in self._of(model.name) if alias in one.version_aliases), None):
                if holder is not model:
                    raise refuse(f"alias {alias!r} belongs to version {holder.version_id}")
            else:
                model.version_aliases.append(alias)

    def _delete(self, request: v1.DeleteModelRequest) -> operations_pb2.Operation:
        with self._lock:
            found = self._of(request.name) or not_found(request.name)
            for version in found:
                self._check_unused(version)
            self._versions = [one for one in self._versions if one.name != request.name]
            self._keep()
        return self._operations.done(request.name)

    def _delete_version(self, request: v1.DeleteModelVersionRequest) -> operations_pb2.Operation:
        with self._lock:
            version = self.find(request.name)
            self._check_unused(version)
            if "default" in version.version_aliases:
                raise refuse("the default version can not be deleted", grpc.StatusCode.FAILED_PRECONDITION)
            self._versions.remove(version)
            self._keep()
        return self._operations.done(request.name)

    def _check_unused(self, version: v1.Model) -> None:
        if self.in_use(name := f"{version.name}@{version.version_id}"):
            raise refuse(f"{name} is deployed to an endpoint", grpc.StatusCode.FAILED_PRECONDITION)

    def _keep(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps([v1.Model.to_json(one) for one in self._versions]))
