"""The container that serves predictions on Vertex AI: the job image, whose environment names the bandit to serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_core.errors import ConfigError
from rl_core.google_cloud.clients import GoogleClients

if TYPE_CHECKING:
    from google.cloud import aiplatform_v1

PORT = 8080
HEALTH_ROUTE = "/health"
PREDICT_ROUTE = "/predict"
POLICY_VERSION = "BANDIT_POLICY_VERSION"


def image_of(clients: GoogleClients) -> str | None:
    """Return the job image by digest: `google.image`, or in a step BANDIT_IMAGE, the image it runs in."""
    return clients.names.google.image or clients.settings.image


def serving_container(clients: GoogleClients, version: str | None = None) -> aiplatform_v1.ModelContainerSpec:
    """Describe the container to Vertex AI.

    Args:
        version: serve this policy out of AIP_STORAGE_URI; default: follow the registry.

    Raises:
        ConfigError: no image is known.
    """
    from google.cloud import aiplatform_v1

    image = image_of(clients)
    if image is None:
        raise ConfigError(f"{clients.bandit.name}: google.image is empty; build the job image and set its digest")
    environment = {"BANDIT_DEFINITION": clients.bandit.job_json(), "BANDIT_HOME": "/tmp/banditloop"}  # noqa: S108
    if version is not None:
        environment[POLICY_VERSION] = version
    return aiplatform_v1.ModelContainerSpec(
        image_uri=image,
        command=["python", "-m", "rl_core", "serve"],
        env=[aiplatform_v1.EnvVar(name=name, value=value) for name, value in environment.items()],
        ports=[aiplatform_v1.Port(container_port=PORT)],
        predict_route=PREDICT_ROUTE,
        health_route=HEALTH_ROUTE,
    )
