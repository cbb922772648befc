"""`google.longrunning.Operations`: most are done when they are answered; deployments take as long as they do."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2
from google.rpc import status_pb2

from stand_ins.faults import Faults
from stand_ins.grpc_service import ApiError, Rpc, not_found, service


class Operations:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, operations_pb2.Operation] = {}

    def done(self, resource: str, response: Any = None) -> operations_pb2.Operation:
        """An operation on `resource` that succeeded; `response` is a proto-plus message, or None for Empty."""
        operation = operations_pb2.Operation(name=_new_name(resource), done=True, response=_packed(response))
        self._keep(operation)
        return operation

    def running(self, resource: str, work: Callable[[], Any]) -> operations_pb2.Operation:
        """An operation that is done when `work` is; it returns as `done` takes it, or raises ApiError."""
        name = _new_name(resource)

        def run() -> None:
            try:
                ended = operations_pb2.Operation(name=name, done=True, response=_packed(work()))
            except ApiError as error:
                status = status_pb2.Status(code=error.code.value[0], message=str(error))
                ended = operations_pb2.Operation(name=name, done=True, error=status)
            self._keep(ended)

        started = operations_pb2.Operation(name=name)
        self._keep(started)
        threading.Thread(target=run, name="operation", daemon=True).start()
        return started

    def _keep(self, operation: operations_pb2.Operation) -> None:
        with self._lock:
            self._known[operation.name] = operation

    def service(self, faults: Faults) -> grpc.GenericRpcHandler:
        def get(request: Any) -> operations_pb2.Operation:
            with self._lock:
                found = self._known.get(request.name)
            return found if found is not None else not_found(request.name)

        def listed(request: Any) -> operations_pb2.ListOperationsResponse:
            with self._lock:
                inside = [one for name, one in self._known.items() if name.startswith(f"{request.name}/")]
            return operations_pb2.ListOperationsResponse(operations=inside)

        operation = operations_pb2.Operation
        rpcs = {
            "GetOperation": Rpc(get, operations_pb2.GetOperationRequest, operation),
            "WaitOperation": Rpc(get, operations_pb2.WaitOperationRequest, operation),
            "ListOperations": Rpc(listed, operations_pb2.ListOperationsRequest, operations_pb2.ListOperationsResponse),
        }
        return service("google.longrunning.Operations", rpcs, faults)


def _new_name(resource: str) -> str:
    return f"{resource}/operations/{uuid.uuid4().int % 10**18}"


def _packed(response: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(empty_pb2.Empty() if response is None else type(response).pb(response))
    return packed
