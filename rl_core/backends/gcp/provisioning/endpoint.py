"""The Vertex endpoint and what is deployed to it, with the models that the registry's policies were mirrored as."""

from __future__ import annotations

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.endpoint import endpoint, server_model
from rl_core.backends.gcp.endpoint.vertex_endpoint import VertexEndpoint
from rl_core.backends.gcp.provisioning.resource import Found, Site
from rl_core.errors import ProvisioningError


class ServingEndpoint:
    """The Vertex endpoint with the mirrored models; found by its label, so one that was there is none of ours."""

    part: Part = "endpoint"
    role = "roles/aiplatform.user on the project"

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> str:
        return f"endpoint {self._site.names.endpoint}"

    def exists(self) -> Found:
        return Found.ABSENT if VertexEndpoint(self._site.clients).find() is None else Found.OURS

    def create(self) -> None:
        endpoint.ensure_endpoint(self._site.clients)

    def delete(self) -> Found:
        gone = endpoint.delete_endpoint(self._site.clients)
        models = endpoint.delete_models(self._site.clients)
        return Found.OURS if gone or models else Found.ABSENT


class DeployedServer:
    """The server of `google.image` on the endpoint; in deploy_mode=model the deployer deploys each policy instead."""

    part: Part = "endpoint"
    role = "roles/aiplatform.user on the project, and roles/iam.serviceAccountUser on the server's account"

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> str:
        return f"server on endpoint {self._site.names.endpoint}"

    def exists(self) -> Found:
        found = VertexEndpoint(self._site.clients).find()
        if found is None or not found.deployed_models:
            return Found.ABSENT
        return Found.OURS if server_model.is_current(self._site.clients) else Found.STALE

    def create(self) -> None:
        """Deploy the server. Raises ProvisioningError without an image; its repository exists by now."""
        names = self._site.names
        if names.google.image is None:
            raise ProvisioningError(
                f"google.image is not set, so no server can be deployed; build and push it to {names.image_base} "
                "(docs/google-cloud.md), put the digest that is printed into the bandit's YAML, then clear this task"
            )
        endpoint.ensure_server_deployed(self._site.clients)

    def delete(self) -> Found:
        serving = VertexEndpoint(self._site.clients)
        found = serving.find()
        if found is None or not found.deployed_models:
            return Found.ABSENT
        serving.undeploy_all_but()
        return Found.OURS
