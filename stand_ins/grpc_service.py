"""A gRPC service out of plain functions, one for each RPC, over the API's own message types.

What the API does not know is refused: a request with unknown fields is INVALID_ARGUMENT, as is one that does not parse.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from stand_ins.faults import Fault, Faults


class ApiError(Exception):
    """What an RPC answers instead of a response."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def not_found(what: str) -> NoReturn:
    raise ApiError(grpc.StatusCode.NOT_FOUND, f"Resource not found: {what}")


@dataclass(frozen=True)
class Rpc:
    """One method. `request` and `response` are proto-plus or protobuf classes; a generator streams its answers."""

    call: Callable[..., Any]
    request: Any
    response: Any
    client_streams: bool = False


def service(name: str, rpcs: Mapping[str, Rpc], faults: Faults) -> grpc.GenericRpcHandler:
    """Args:
    name: in full, e.g. "google.cloud.aiplatform.v1.PipelineService"; the keys of `rpcs` are the RPCs' names.
    """
    return grpc.method_handlers_generic_handler(name, {key: _handler(key, rpc, faults) for key, rpc in rpcs.items()})


def _handler(name: str, rpc: Rpc, faults: Faults) -> grpc.RpcMethodHandler:
    def unary(data: bytes, context: grpc.ServicerContext) -> Any:
        return _guarded(name, faults, context, lambda: rpc.call(_parse(rpc.request, data)), data)

    def unary_stream(data: bytes, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from _guarded(name, faults, context, lambda: rpc.call(_parse(rpc.request, data)))

    def stream_stream(stream: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        yield from _guarded(name, faults, context, lambda: rpc.call((_parse(rpc.request, d) for d in stream), context))

    def serialize(response: Any) -> bytes:
        written: bytes = (
            response.SerializeToString() if isinstance(response, Message) else type(response).serialize(response)
        )
        return written

    if rpc.client_streams:
        return grpc.stream_stream_rpc_method_handler(stream_stream, response_serializer=serialize)
    if inspect.isgeneratorfunction(rpc.call):
        return grpc.unary_stream_rpc_method_handler(unary_stream, response_serializer=serialize)
    return grpc.unary_unary_rpc_method_handler(unary, response_serializer=serialize)


def _guarded(
    name: str, faults: Faults, context: grpc.ServicerContext, call: Callable[[], Any], data: bytes = b""
) -> Any:
    fault = faults.next(name, data) or Fault(name)
    lost = None
    if fault.drop:
        lost = ApiError(grpc.StatusCode.UNAVAILABLE, fault.message)
    elif fault.code is not None:
        lost = ApiError(grpc.StatusCode[fault.code], fault.message)
    try:
        if lost is not None and not fault.after:
            raise lost
        answer = call()
        if fault.after:
            faults.delay(fault)
        if lost is not None:
            raise lost
    except ApiError as error:
        if fault.drop and error is lost:
            for end in list(faults.connections):
                end()
        context.abort(error.code, str(error))
    return answer


def _parse(kind: Any, data: bytes) -> Any:
    raw = kind if issubclass(kind, Message) else kind.pb()
    try:
        message = raw.FromString(data)
    except DecodeError as error:
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"not a {kind.__name__}: {error}") from error
    if path := next(_unknown(message, ""), None):
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"{kind.__name__} has no field {path}")
    return message if raw is kind else kind.wrap(message)


def _unknown(message: Message, path: str) -> Iterator[str]:
    """Field numbers that the message's type does not have, e.g. "pipeline_job.99"."""
    unknown: Any = UnknownFieldSet(message)  # a sequence, which its type stub does not know
    yield from (f"{path}{field.field_number}" for field in unknown)
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = list(value.values()) if field.message_type.fields_by_name["value"].message_type else []
        else:
            inner = list(value) if field.is_repeated else [value]
        for one in inner:
            yield from _unknown(one, f"{path}{field.name}.")
