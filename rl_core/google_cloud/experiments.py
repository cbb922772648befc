"""Vertex Experiments: the pipeline runs of a bandit, gathered under one experiment with parameters and metrics.

An experiment is a Metadata context, and so is a pipeline run, which Vertex makes some time after the job: being a child
of the experiment is what makes the run appear there. Its parameters are the pipeline's, its metrics those of the
artefact `verdict`; Vertex reads both from the run itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_core.errors import RunnerError
from rl_core.google_cloud.failures import explained
from rl_core.google_cloud.names import Names

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import PipelineJob

    from rl_core.google_cloud.clients import GoogleClients

_SCHEMA = "system.Experiment"
_TIMEOUT_S = 5.0  # a look at a job waits for it
_ROLE = "roles/aiplatform.user on the project"


def associate(clients: GoogleClients, job_id: str) -> bool:
    """Put the job of this id into the experiment, as `associate_job`. Raises RunnerError also where there is none."""
    names = clients.names
    with explained(RunnerError, f"read {job_id}", names, _ROLE):
        job = clients.pipelines.get_pipeline_job(name=f"{names.parent}/pipelineJobs/{job_id}")
    return associate_job(clients, job)


def associate_job(clients: GoogleClients, job: PipelineJob) -> bool:
    """Put the run into the experiment, which is made where it is missing; a run that is in stays as it is.

    Args:
        job: as Vertex gave it a moment ago.

    Returns:
        Whether it is in now. False: Vertex has not made the run's context yet; ask again.

    Raises:
        RunnerError: Vertex did not answer, or refused.
    """
    names, run = clients.names, job.job_detail.pipeline_run_context
    if not run.name:
        return False
    # Vertex answers with the project's number where it was asked with its id: the last part tells.
    if names.experiment in {parent.rpartition("/")[2] for parent in run.parent_contexts}:
        return True
    with explained(
        RunnerError, f"put {job.name.rpartition('/')[2]} into the experiment {names.experiment}", names, _ROLE
    ):
        _ensure_experiment(clients.metadata, names)
        clients.metadata.add_context_children(
            context=experiment_path(names), child_contexts=[run.name], timeout=_TIMEOUT_S
        )
    return True


def experiment_path(names: Names) -> str:
    """Name the experiment's context in Vertex Metadata."""
    return f"{_store(names)}/contexts/{names.experiment}"


def _store(names: Names) -> str:
    return f"{names.parent}/metadataStores/default"


def _ensure_experiment(metadata: Any, names: Names) -> None:
    """Raises RunnerError where the name belongs to something that is no experiment."""
    from google.api_core.exceptions import AlreadyExists, NotFound
    from google.cloud import aiplatform_v1

    try:
        found = metadata.get_context(name=experiment_path(names), timeout=_TIMEOUT_S)
    except NotFound:
        _ensure_store(metadata, names)
        experiment = aiplatform_v1.Context(
            display_name=names.experiment,
            schema_title=_SCHEMA,
            schema_version="0.0.1",
            labels=names.labels,
            metadata={"experiment_deleted": False},  # the console hides contexts without it
        )
        try:
            metadata.create_context(parent=_store(names), context=experiment, context_id=names.experiment)
        except AlreadyExists:
            return
        return
    if found.schema_title != _SCHEMA:
        raise RunnerError(
            f"{names.experiment} is a {found.schema_title} in Vertex ML Metadata, no experiment; "
            "name another in google.vertex.experiment"
        )


def _ensure_store(metadata: Any, names: Names) -> None:
    """The project's default store, which Vertex makes at the first use from its console or SDK."""
    from google.api_core.exceptions import AlreadyExists, NotFound
    from google.cloud import aiplatform_v1

    try:
        metadata.get_metadata_store(name=_store(names))
    except NotFound:
        store = aiplatform_v1.MetadataStore()
        if names.google.kms_key:
            store.encryption_spec.kms_key_name = names.google.kms_key
        try:
            metadata.create_metadata_store(
                parent=names.parent, metadata_store=store, metadata_store_id="default"
            ).result()
        except AlreadyExists:
            return
