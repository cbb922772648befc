"""deploy_mode=model: every version is a deployed model of its own, and the traffic split says which one serves.

A version is healthy when DeployModel is done: its container answers the health route with 200 only after it has
verified every checksum and probe of its policy. There is no question to ask it beyond that: predictions reach a model
only through the split, and would be logged as decisions.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rl_core.backends.gcp.endpoint.vertex_endpoint import DEPLOYED_WITHIN_S, VertexEndpoint, traffic
from rl_core.backends.gcp.registry.model_mirror import ModelMirror
from rl_core.backends.gcp.registry.policy_registry import VertexRegistry
from rl_core.errors import EndpointError, PolicyError
from rl_core.google_cloud.clients import GoogleClients

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

_log = logging.getLogger(__name__)


class ModelEndpoint:
    """`Endpoint` of deploy_mode=model. Deploying takes minutes; each step is looked for first, so a retry goes on."""

    def __init__(self, clients: GoogleClients, registry: VertexRegistry) -> None:
        self._endpoint = VertexEndpoint(clients)
        self._mirror = ModelMirror(clients)
        self._registry = registry

    def load(self, version: str, timeout_s: float = DEPLOYED_WITHIN_S) -> None:
        """Deploy the version beside the one that serves, without traffic."""
        from google.api_core.exceptions import GoogleAPICallError

        from rl_core.google_cloud.failures import transient

        self._endpoint.get()
        try:
            self._endpoint.deploy(self._model(version), version, timeout_s)
        except EndpointError as error:
            cause = error.__cause__
            if isinstance(cause, GoogleAPICallError) and _unhealthy(cause) and not transient(cause):
                raise PolicyError(f"the endpoint refused {version}: {cause.message}; look at its logs") from error
            raise

    def serve(self, version: str, timeout_s: float = DEPLOYED_WITHIN_S) -> None:
        """Give the version all traffic, and undeploy all but it and its predecessor, which a rollback returns to."""
        model = self._model(version)
        before = self._endpoint.get()
        deployed_id = self._endpoint.deploy(model, version, timeout_s)
        self._endpoint.serve(deployed_id)
        others = [one for one in before.deployed_models if str(one.id) != deployed_id]
        try:
            self._endpoint.undeploy_all_but(deployed_id, *self._predecessor(before, others, version))
        except EndpointError as error:  # it serves; raising would undo its promotion
            _log.warning("what served before %s still costs money until the next deployment: %s", version, error)

    def state(self) -> dict[str, Any]:
        endpoint = self._endpoint.get()
        shares = traffic(endpoint)
        serving = [one.display_name for one in endpoint.deployed_models if shares.get(str(one.id), 0) == 100]
        champion = serving[0] if serving else None  # before the first there is no server that could start cold
        return {
            "serves": champion,
            "champion": champion,
            "challenger": self._registry.alias("challenger"),
            "loaded": sorted(one.display_name for one in endpoint.deployed_models),
            "refused": {},
            "traffic_split": {
                one.display_name: shares[str(one.id)] for one in endpoint.deployed_models if str(one.id) in shares
            },
        }

    def _predecessor(
        self, before: aiplatform_v1.Endpoint, others: list[aiplatform_v1.DeployedModel], version: str
    ) -> list[str]:
        """Whoever had the traffic; after a crash in between, the version's parent; else the last one deployed."""
        if not others:
            return []
        shares, parent = traffic(before), self._registry.lineage(version).parent

        def rank(one: aiplatform_v1.DeployedModel) -> tuple[int, bool, str]:
            return shares.get(str(one.id), 0), one.display_name == parent, str(one.create_time)

        return [str(max(others, key=rank).id)]

    def _model(self, version: str) -> aiplatform_v1.Model:
        with self._endpoint.explained(f"look for {version} in Vertex Model Registry"):
            found = self._mirror.versions().get(version)
        if found is None:
            raise EndpointError(f"{version} is not in Vertex Model Registry yet; try again, each try registers it")
        return found


def _unhealthy(error: Any) -> bool:
    """Whether the container did not come up, rather than the request being wrong or forbidden."""
    from google.api_core import exceptions as google

    return isinstance(error, google.FailedPrecondition | google.InternalServerError | google.Cancelled)
