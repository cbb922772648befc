"""The one server that deploy_mode=pointer runs: a Vertex model of the job image, deployed once for each new image."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rl_core.backends.gcp.endpoint.containers import serving_container
from rl_core.backends.gcp.endpoint.vertex_endpoint import (
    DEPLOYED_WITHIN_S,
    VertexEndpoint,
    deployed_version,
    traffic,
)
from rl_core.google_cloud.clients import GoogleClients
from rl_core.google_cloud.failures import patiently

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

_LABEL = "container"
_CALL_S = 30.0
_DEADLINE_S = 300.0


def ensure_server(clients: GoogleClients, timeout_s: float = DEPLOYED_WITHIN_S) -> bool:
    """Deploy the server of the current image and settings where it is not; move the traffic; undeploy the one before.

    The one before answers until the new one is healthy, and whichever stage this is stopped at, the next call goes on.
    A private endpoint holds one deployed model, so there the one before goes first and nobody answers for a while:
    https://cloud.google.com/vertex-ai/docs/predictions/using-private-endpoints

    Returns whether anything was to be done. Raises EndpointAbsent, EndpointError, ConfigError without google.image.
    """
    endpoint = VertexEndpoint(clients)
    model = _model(clients, endpoint)
    before = endpoint.get()
    if before.network and deployed_version(before, model) is None:
        endpoint.undeploy_all_but()
    deployed_id = endpoint.deploy(model, "server", timeout_s)
    endpoint.serve(deployed_id)
    endpoint.undeploy_all_but(deployed_id)
    after = endpoint.get()
    return (list(before.deployed_models), dict(before.traffic_split)) != (
        list(after.deployed_models),
        dict(after.traffic_split),
    )


def is_current(clients: GoogleClients) -> bool:
    """Tell whether all traffic goes to the server of the current image and settings. Raises EndpointError."""
    endpoint = VertexEndpoint(clients)
    found = endpoint.find()
    with endpoint.explained(f"look at {model_name(clients)}"):
        model = _labelled(_versions(clients, model_name(clients)), _label(clients))
    deployed = None if found is None or model is None else deployed_version(found, model)
    return found is not None and deployed is not None and dict(traffic(found)) == {str(deployed.id): 100}


def model_name(clients: GoogleClients) -> str:
    """Name the Vertex model of the server."""
    return f"{clients.names.model}-server"


def _model(clients: GoogleClients, endpoint: VertexEndpoint) -> aiplatform_v1.Model:
    """The version of the server's model for this container, machine and number; uploaded where there is none."""
    from google.cloud import aiplatform_v1

    name, names = model_name(clients), clients.names
    container, label = serving_container(clients), _label(clients)
    with endpoint.explained(f"upload {name}"):
        known = _versions(clients, name)
        if (found := _labelled(known, label)) is not None:
            return found
        kms_key = names.google.kms_key
        request = aiplatform_v1.UploadModelRequest(
            parent=names.parent,
            parent_model=name if known else "",
            model_id="" if known else name.rpartition("/")[2],
            model=aiplatform_v1.Model(
                display_name=name.rpartition("/")[2],
                labels={**names.labels, _LABEL: label},
                container_spec=container,
                encryption_spec=aiplatform_v1.EncryptionSpec(kms_key_name=kms_key) if kms_key else None,
            ),
        )
        clients.models.upload_model(request=request, timeout=_CALL_S).result(timeout=_DEADLINE_S)
        made = _labelled(_versions(clients, name), label)
    assert made is not None  # noqa: S101  it was just uploaded
    return made


def _label(clients: GoogleClients) -> str:
    from google.cloud import aiplatform_v1

    names = clients.names
    written = aiplatform_v1.ModelContainerSpec.to_json(serving_container(clients), sort_keys=True)
    size = names.google.endpoint.model_dump_json(include={"machine_type", "min_replicas", "max_replicas"})
    return hashlib.sha256(f"{written}{size}{names.account('server')}".encode()).hexdigest()[:40]


def _versions(clients: GoogleClients, name: str) -> list[aiplatform_v1.Model]:
    from google.api_core.exceptions import NotFound

    try:
        return list(clients.models.list_model_versions(name=name, timeout=_CALL_S, retry=patiently()))
    except NotFound:
        return []


def _labelled(versions: list[aiplatform_v1.Model], label: str) -> aiplatform_v1.Model | None:
    """The first of them: two that uploaded at once deploy the same."""
    found = [version for version in versions if version.labels.get(_LABEL) == label]
    return min(found, key=lambda one: int(one.version_id), default=None)
