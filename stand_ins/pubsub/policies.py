"""google.iam.v1.IAMPolicy of topics and subscriptions."""

from __future__ import annotations

import hashlib

import grpc
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.pubsub_v1 import types as t

from stand_ins.faults import Faults
from stand_ins.grpc_service import ApiError, Rpc, service
from stand_ins.pubsub.state import State


class Policies:
    """Kept and given back; nobody is kept out by them, except where a fault says so."""

    def __init__(self, state: State) -> None:
        self._state = state

    def service(self, faults: Faults) -> grpc.GenericRpcHandler:
        rpcs = {
            "SetIamPolicy": Rpc(self._set, iam_policy_pb2.SetIamPolicyRequest, policy_pb2.Policy),
            "GetIamPolicy": Rpc(self._get, iam_policy_pb2.GetIamPolicyRequest, policy_pb2.Policy),
            "TestIamPermissions": Rpc(
                self._test, iam_policy_pb2.TestIamPermissionsRequest, iam_policy_pb2.TestIamPermissionsResponse
            ),
        }
        return service("google.iam.v1.IAMPolicy", rpcs, faults)

    def _set(self, request: iam_policy_pb2.SetIamPolicyRequest) -> policy_pb2.Policy:
        with self._state.transaction() as db:
            stored = self._read(request.resource)
            if request.policy.etag and request.policy.etag != stored.etag:
                raise ApiError(
                    grpc.StatusCode.ABORTED, "There were concurrent policy changes. Please retry the whole read-modify."
                )
            db.execute(
                "INSERT OR REPLACE INTO policies VALUES (?, ?)", (request.resource, request.policy.SerializeToString())
            )
            return self._read(request.resource)

    def _get(self, request: iam_policy_pb2.GetIamPolicyRequest) -> policy_pb2.Policy:
        return self._read(request.resource)

    def _test(self, request: iam_policy_pb2.TestIamPermissionsRequest) -> iam_policy_pb2.TestIamPermissionsResponse:
        self._read(request.resource)
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=request.permissions)

    def _read(self, resource: str) -> policy_pb2.Policy:
        with self._state.transaction() as db:
            self._state.get(t.Topic if "/topics/" in resource else t.Subscription, resource)
            row = db.execute("SELECT body FROM policies WHERE name = ?", (resource,)).fetchone()
        policy = policy_pb2.Policy.FromString(row[0]) if row else policy_pb2.Policy()
        policy.ClearField("etag")
        policy.etag = hashlib.sha256(policy.SerializeToString(deterministic=True)).digest()[:8]
        return policy
