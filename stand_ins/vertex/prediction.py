"""`google.cloud.aiplatform.v1.PredictionService`: what comes in goes to a container by the endpoint's traffic split."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import grpc
import httpx
from google.api import httpbody_pb2
from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format

from stand_ins.faults import Faults
from stand_ins.grpc_service import ApiError, Rpc, service
from stand_ins.vertex.endpoints import Endpoints

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}


def prediction_service(endpoints: Endpoints, faults: Faults) -> grpc.GenericRpcHandler:
    """Predict and RawPredict. Only the predict route of a container can be reached, as on Vertex."""
    chance, turn = random.Random(0), itertools.count()  # noqa: S311

    def answer(name: str, body: bytes, content_type: str) -> tuple[str, httpx.Response]:
        split = endpoints.find(name).traffic_split
        if not split:
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"{name} has no model that takes traffic")
        deployed_id = chance.choices(list(split), list(split.values()))[0]
        replicas = endpoints.containers(name, deployed_id)
        try:
            response = replicas[next(turn) % len(replicas)].predict(body, content_type)
        except httpx.HTTPError as error:
            raise ApiError(grpc.StatusCode.UNAVAILABLE, f"the model server does not answer: {error}") from error
        if response.status_code != 200:
            code = _CODES.get(response.status_code, grpc.StatusCode.INTERNAL)
            raise ApiError(code, f"{response.status_code}: {response.text}")
        return deployed_id, response

    def raw_predict(request: v1.RawPredictRequest) -> httpbody_pb2.HttpBody:
        kind = request.http_body.content_type or "application/json"
        _, response = answer(request.endpoint, request.http_body.data, kind)
        return httpbody_pb2.HttpBody(content_type=response.headers.get("content-type", ""), data=response.content)

    def predict(request: v1.PredictRequest) -> v1.PredictResponse:
        raw: Any = v1.PredictRequest.pb(request)
        body = {"instances": [json_format.MessageToDict(one) for one in raw.instances]}
        deployed_id, response = answer(request.endpoint, json.dumps(body).encode(), "application/json")
        made: Any = v1.PredictResponse.pb(v1.PredictResponse(deployed_model_id=deployed_id))
        for one in response.json()["predictions"]:
            json_format.ParseDict(one, made.predictions.add())
        return v1.PredictResponse.wrap(made)

    rpcs = {
        "Predict": Rpc(predict, v1.PredictRequest, v1.PredictResponse),
        "RawPredict": Rpc(raw_predict, v1.RawPredictRequest, httpbody_pb2.HttpBody),
    }
    return service("google.cloud.aiplatform.v1.PredictionService", rpcs, faults)
