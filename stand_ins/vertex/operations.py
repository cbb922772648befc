"""`google.longrunning.Operations`: every operation of this stand-in is done when it is answered, and kept."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import grpc
from google.longrunning import operations_pb2
from google.protobuf import any_pb2, empty_pb2

from stand_ins.faults import Faults
from stand_ins.grpc_service import Rpc, not_found, service


class Operations:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, operations_pb2.Operation] = {}

    def done(self, resource: str, response: Any = None) -> operations_pb2.Operation:
        """An operation on `resource` that succeeded; `response` is a proto-plus message, or None for Empty."""
        packed = any_pb2.Any()
        packed.Pack(empty_pb2.Empty() if response is None else type(response).pb(response))
        name = f"{resource}/operations/{uuid.uuid4().int % 10**18}"
        operation = operations_pb2.Operation(name=name, done=True, response=packed)
        with self._lock:
            self._known[name] = operation
        return operation

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
