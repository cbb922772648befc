"""The Vertex endpoint as a resource: found, made, deployed to and cleared, each so that it can be tried again.

DeployModel deploys a second copy when it is called again, so every deployment is looked for first: among what is
deployed, and among operations that a killed predecessor left running.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rl_core.errors import EndpointAbsent, EndpointError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.google_cloud.failures import explained, patiently, transient
from rl_core.google_cloud.names import LABEL
from rl_core.waiting import looks, tries

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

ROLE = "roles/aiplatform.user on the project"
_CALL_S = 30.0
_SHORT_S = 300.0
DEPLOYED_WITHIN_S = 2400.0
_POLL_S = 1.0
_TRIES = 5


class VertexEndpoint:
    """The bandit's endpoint resource on Vertex AI; provisioning, teardown and both deploy modes work on it."""

    def __init__(self, clients: GoogleClients) -> None:
        self._clients = clients

    def find(self) -> aiplatform_v1.Endpoint | None:
        """Find the endpoint by display name and label. Raises EndpointError."""
        names = self._clients.names
        wanted = f'display_name="{names.endpoint}" AND labels.{LABEL}="{names.bandit_id}"'
        with self.explained(f"look for endpoint {names.endpoint}"):
            listed = self._clients.endpoints.list_endpoints(
                request={"parent": names.parent, "filter": wanted}, timeout=_CALL_S, retry=patiently()
            )
            found = sorted(listed, key=lambda one: str(one.create_time))
        return found[0] if found else None

    def get(self) -> aiplatform_v1.Endpoint:
        """Return the endpoint. Raises EndpointAbsent."""
        found = self.find()
        if found is None:
            names = self._clients.names
            raise EndpointAbsent(
                f"no Vertex endpoint {names.endpoint} in {names.parent}; run the DAG …_provision, or "
                f"correct google.project={names.project}, google.region={names.region}"
            )
        return found

    def ensure(self) -> bool:
        """Make the endpoint where missing; return whether it was made. Its id is ours, so two at once make one."""
        from google.api_core.exceptions import AlreadyExists
        from google.cloud import aiplatform_v1

        if self.find() is not None:
            return False
        names = self._clients.names
        kms_key, network = names.google.kms_key, names.google.endpoint.network
        request = aiplatform_v1.CreateEndpointRequest(
            parent=names.parent,
            endpoint_id=names.bandit_id,
            endpoint=aiplatform_v1.Endpoint(
                display_name=names.endpoint,
                labels=names.labels,
                encryption_spec=aiplatform_v1.EncryptionSpec(kms_key_name=kms_key) if kms_key else None,
                network=network or "",
            ),
        )
        with self.explained(f"create endpoint {names.endpoint}"):
            try:
                self._clients.endpoints.create_endpoint(request=request, timeout=_CALL_S).result(timeout=_SHORT_S)
            except AlreadyExists:
                return False
        return True

    def deploy(self, model: aiplatform_v1.Model, display_name: str, timeout_s: float) -> str:
        """Deploy this version of a model without traffic, unless it is; return the deployed model's id.

        It returns when the container's health route has answered 200. Raises EndpointError.
        """
        endpoint = self._settled(timeout_s)
        if (deployed := deployed_version(endpoint, model)) is not None:
            return str(deployed.id)
        with self.explained(f"deploy {model.name}@{model.version_id} to {endpoint.name}"):
            from google.cloud import aiplatform_v1

            settings = self._clients.names.google.endpoint
            deployed_model = aiplatform_v1.DeployedModel(
                id=_deployed_id(model),
                model=f"{model.name}@{model.version_id}",
                display_name=display_name,
                service_account=self._clients.names.account("server"),
                dedicated_resources=aiplatform_v1.DedicatedResources(
                    machine_spec=aiplatform_v1.MachineSpec(machine_type=settings.machine_type),
                    min_replica_count=settings.min_replicas,
                    max_replica_count=settings.max_replicas,
                ),
            )
            split = {"0": 0, **endpoint.traffic_split} if endpoint.traffic_split else {}
            operation = self._clients.endpoints.deploy_model(
                endpoint=endpoint.name, deployed_model=deployed_model, traffic_split=split, timeout=_CALL_S
            )
            done = operation.result(timeout=timeout_s, retry=patiently(), polling=_polling())
        return str(done.deployed_model.id)

    def serve(self, deployed_id: str) -> None:
        """Send all traffic to this deployed model. Raises EndpointError."""
        from google.cloud import aiplatform_v1
        from google.protobuf.field_mask_pb2 import FieldMask

        for left in tries(_TRIES, _POLL_S / 4):
            endpoint = self.get()
            if dict(endpoint.traffic_split) == {deployed_id: 100}:
                return
            changed = aiplatform_v1.Endpoint(name=endpoint.name, traffic_split={deployed_id: 100}, etag=endpoint.etag)
            with self.explained(f"shift the traffic of {endpoint.name}"):
                try:
                    self._clients.endpoints.update_endpoint(
                        endpoint=changed, update_mask=FieldMask(paths=["traffic_split"]), timeout=_CALL_S
                    )
                except Exception as error:  # whether it took effect, the next look tells
                    if not transient(error) or not left:
                        raise
                else:
                    return

    def undeploy_all_but(self, *kept: str) -> None:
        """Undeploy the others; those without traffic go first. Raises EndpointError."""
        endpoint = self._settled(_SHORT_S)
        split = dict(endpoint.traffic_split)
        there = [str(deployed.id) for deployed in endpoint.deployed_models]
        for gone in sorted(set(there) - set(kept), key=lambda deployed_id: (split.get(deployed_id, 0), deployed_id)):
            there.remove(gone)
            if split.pop(gone, 0) and there:  # what it had goes to one that stays
                split = {there[0]: 100}
            with self.explained(f"undeploy {gone} from {endpoint.name}"):
                self._clients.endpoints.undeploy_model(
                    endpoint=endpoint.name, deployed_model_id=gone, traffic_split=split, timeout=_CALL_S
                ).result(timeout=_SHORT_S)

    def delete(self) -> bool:
        """Undeploy everything, then delete the endpoint; return whether there was one. Raises EndpointError."""
        endpoint = self.find()
        if endpoint is None:
            return False
        self.undeploy_all_but()
        with self.explained(f"delete {endpoint.name}"):
            self._clients.endpoints.delete_endpoint(name=endpoint.name, timeout=_CALL_S).result(timeout=_SHORT_S)
        return True

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turn Google's errors into EndpointError."""
        try:
            with explained(EndpointError, what, self._clients.names, ROLE):
                yield
        except TimeoutError as error:
            raise EndpointError(f"{what}: not done in time; try again, what has begun is waited for") from error

    def _settled(self, timeout_s: float) -> aiplatform_v1.Endpoint:
        """The endpoint once nothing is under way on it: what a killed predecessor began, ends first."""
        endpoint = self.get()
        with self.explained(f"wait for the operations on {endpoint.name}"):
            for _ in looks(timeout_s, _POLL_S):
                if not self._under_way(endpoint.name):
                    return self.get()
            raise TimeoutError

    def _under_way(self, name: str) -> bool:
        from google.longrunning.operations_pb2 import ListOperationsRequest

        request: Any = ListOperationsRequest(name=name)
        while True:
            listed = self._clients.endpoints.list_operations(request, timeout=_CALL_S, retry=patiently())
            if any(not one.done for one in listed.operations):
                return True
            if not listed.next_page_token:
                return False
            request = ListOperationsRequest(name=name, page_token=listed.next_page_token)


def _polling() -> Any:
    """As api_core polls operations, but more often at first."""
    from google.api_core.future.polling import DEFAULT_POLLING

    return DEFAULT_POLLING.with_delay(initial=0.25, maximum=10.0)


def deployed_version(
    endpoint: aiplatform_v1.Endpoint, model: aiplatform_v1.Model
) -> aiplatform_v1.DeployedModel | None:
    """Find the deployed model that is this version of a model."""
    wanted = (model.name.partition("@")[0], model.version_id)
    for deployed in endpoint.deployed_models:
        name, _, version = deployed.model.partition("@")
        if (name, version or deployed.model_version_id) == wanted:
            return deployed
    return None


def traffic(endpoint: aiplatform_v1.Endpoint) -> Mapping[str, int]:
    """Return the traffic in per cent by deployed model's id, of those that have any."""
    return {deployed_id: share for deployed_id, share in endpoint.traffic_split.items() if share}


def _deployed_id(model: aiplatform_v1.Model) -> str:
    """Ten digits, the same for the same version: Vertex refuses the second of two that deploy it at once."""
    digest = hashlib.sha256(f"{model.name.partition('@')[0]}@{model.version_id}".encode()).hexdigest()
    return str(10**9 + int(digest, 16) % (9 * 10**9))
