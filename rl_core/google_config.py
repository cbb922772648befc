"""Where and as whom a bandit runs on Google Cloud: the section `google` of its YAML."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from rl_core.cron import Schedule
from rl_core.frozen import Frozen, Seconds

Label = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]


def _check_key(key: str) -> str:
    if not key[:1].islower():
        raise ValueError(f"label key {key!r}: Google wants a lower-case letter first")
    return key


LabelKey = Annotated[Label, AfterValidator(_check_key)]
Labels = Annotated[dict[LabelKey, Label], Field(max_length=60)]
"""Google takes 64 on a resource, and some are ours."""
ServiceAccount = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.gserviceaccount\.com$")]


class VertexJob(Frozen):
    """How a pipeline run is submitted to Vertex AI Pipelines."""

    display_name: str | None = Field(default=None, description="default: the pipeline's name")
    service_account: ServiceAccount | None = Field(default=None, description="default: the one provisioning makes")
    labels: Labels = Field(default={}, description="beside those that name bandit, version and spec")
    network: str | None = Field(default=None, description="projects/<number>/global/networks/<name>, peered")
    kms_key: str | None = Field(default=None, description="CMEK of the run; default: google.kms_key")
    cpu: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?$", description="of each step; default: Vertex's own")
    memory: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?[KMGT]i?$", description="of each step, e.g. 8G")
    experiment: str | None = Field(default=None, description="Vertex experiment; default: the bandit id")


class VertexEndpoint(Frozen):
    """What serves predictions on Vertex AI."""

    deploy_mode: Literal["pointer", "model"] = Field(
        default="pointer",
        description="pointer: one deployed server swaps policies in place. model: each version is a deployed model",
    )
    machine_type: str = Field(default="n1-standard-2", description="of each replica")
    min_replicas: int = Field(default=1, ge=1, description="that always run")
    max_replicas: int = Field(default=1, ge=1, description="that may run under load")
    service_account: ServiceAccount | None = Field(default=None, description="default: the one provisioning makes")
    network: str | None = Field(default=None, description="makes the endpoint private: VPC peering")
    poll_s: Seconds = Field(default=2.0, description="how often a replica looks for another champion")

    @model_validator(mode="after")
    def _private_holds_one(self) -> Self:
        if self.network is not None and self.deploy_mode == "model":
            raise ValueError(
                "deploy_mode=model needs two deployed models at a time, and a private endpoint (network) holds one; "
                "use deploy_mode: pointer"
            )
        return self


_DIGEST = r"^[^@\s]+@sha256:[0-9a-f]{64}$"


class Google(Frozen):
    """Every place, identity and size on Google Cloud; what resources are called is in google_cloud/names.py."""

    project: str = Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$", description="its id")
    region: str = Field(default="europe-west1", pattern=r"^[a-z]+-[a-z]+\d+$", description="of Vertex AI and functions")
    location: str | None = Field(default=None, description="of dataset and bucket, e.g. EU; default: the region")
    bucket: str | None = Field(default=None, description="default: <project>-<bandit id>")
    image: str | None = Field(
        default=None, pattern=_DIGEST, description="the job image, by digest. `gcloud builds submit` prints both"
    )
    server_image: str | None = Field(
        default=None, pattern=_DIGEST, description="the server's image, a fifth of it; default: the job image"
    )
    kms_key: str | None = Field(default=None, description="CMEK of dataset, bucket, topics, endpoint and runs")
    labels: Labels = Field(default={}, description="on everything that is made")
    gcp_conn_id: str = Field(default="google_cloud_default", description="Airflow connection of tasks and sensors")
    impersonation_chain: tuple[ServiceAccount, ...] = Field(
        default=(), description="run-time identity of the tasks; the last one acts. default: the connection's own"
    )
    provisioner: ServiceAccount | None = Field(
        default=None, description="impersonated by provisioning and teardown alone; default: as impersonation_chain"
    )
    join_schedule: Schedule | None = Field(default="*/2 * * * *", description="how often …_join runs")
    simulate_by: Literal["dag", "scheduler"] = Field(
        default="dag", description="who asks the simulator function for traffic: the DAG …_simulate or Cloud Scheduler"
    )
    silent_after_s: Seconds = Field(
        default=900.0, description="a server that has not been heard of for so long while others were is taken as gone"
    )
    alert_after_s: Seconds = Field(default=7200.0, description="a run that takes longer raises a deadline alert")
    vertex: VertexJob = VertexJob()
    endpoint: VertexEndpoint = VertexEndpoint()

    @field_validator("impersonation_chain", mode="before")
    @classmethod
    def _one_is_a_chain(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value
