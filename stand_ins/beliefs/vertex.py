"""What the runner stands on: a job id names one job for ever, labels come back, a run tells its outputs and context."""

from __future__ import annotations

import json
import uuid

from google.api_core.exceptions import AlreadyExists, InvalidArgument, NotFound
from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format

from rl_core.google_cloud.experiments import associate, experiment_path
from stand_ins.beliefs.one_step import spec
from stand_ins.beliefs.scratch import Belief, Scratch, until

_ENDED = {
    v1.PipelineState.PIPELINE_STATE_SUCCEEDED,
    v1.PipelineState.PIPELINE_STATE_FAILED,
    v1.PipelineState.PIPELINE_STATE_CANCELLED,
}
_NO_IMAGE = f"python@sha256:{'0' * 64}"
_MINUTES = 60.0


def create(scratch: Scratch, job_id: str, seconds: int, image: str = _NO_IMAGE) -> str:
    """The job's full name; it is cancelled and deleted at the end."""
    pipelines, names = scratch.clients.pipelines, scratch.names
    job = v1.PipelineJob(
        display_name=job_id,
        labels={**names.labels, "banditloop-spec": "0123456789abcdef"},
        runtime_config=v1.PipelineJob.RuntimeConfig(
            gcs_output_directory=f"gs://{scratch.bucket.name}/pipelines",
            parameter_values={"number": 41, "seconds": seconds},
        ),
    )
    v1.PipelineJob.pb(job).pipeline_spec.CopyFrom(
        json_format.ParseDict(spec(image), type(v1.PipelineJob.pb(job).pipeline_spec)())
    )
    name = f"{names.parent}/pipelineJobs/{job_id}"
    pipelines.create_pipeline_job(parent=names.parent, pipeline_job=job, pipeline_job_id=job_id)
    scratch.undo(f"pipeline job {name}", lambda: _remove(scratch, name))
    return name


def _remove(scratch: Scratch, name: str) -> None:
    pipelines = scratch.clients.pipelines
    if pipelines.get_pipeline_job(name=name).state not in _ENDED:
        pipelines.cancel_pipeline_job(name=name)
    until(lambda: pipelines.get_pipeline_job(name=name).state in _ENDED, 5 * _MINUTES, every_s=1)
    pipelines.delete_pipeline_job(name=name).result(timeout=2 * _MINUTES)


def new_id(scratch: Scratch) -> str:
    return f"{scratch.names.bandit_id}-{uuid.uuid4().hex[:8]}"


def an_unknown_job_is_not_found(scratch: Scratch) -> str | None:
    try:
        scratch.clients.pipelines.get_pipeline_job(name=f"{scratch.names.parent}/pipelineJobs/{new_id(scratch)}")
    except NotFound:
        return None
    raise AssertionError("a job that nobody created is there")


def a_job_id_has_a_grammar(scratch: Scratch) -> str | None:
    for wrong in ("Upper-case", "1-begins-with-a-digit", "under_score"):
        try:
            create(scratch, wrong, seconds=0)
        except InvalidArgument:
            continue
        raise AssertionError(f"job id {wrong!r} was taken")
    return None


def a_second_create_is_refused_and_cancelling_ends_the_job(scratch: Scratch) -> str | None:
    job_id = new_id(scratch)
    name = create(scratch, job_id, seconds=300)
    try:
        create(scratch, job_id, seconds=300)
    except AlreadyExists:
        pass
    else:
        raise AssertionError("one job id, two jobs")
    pipelines = scratch.clients.pipelines
    found = pipelines.get_pipeline_job(name=name)
    assert found.labels["banditloop-spec"] == "0123456789abcdef", dict(found.labels)
    pipelines.cancel_pipeline_job(name=name)
    until(lambda: pipelines.get_pipeline_job(name=name).state in _ENDED, 10 * _MINUTES, every_s=0.5)
    state = pipelines.get_pipeline_job(name=name).state
    assert state == v1.PipelineState.PIPELINE_STATE_CANCELLED, f"cancelled, and now {state.name}"
    try:
        pipelines.cancel_pipeline_job(name=name)
    except Exception as error:  # what comes back is told, not judged: the runner looks at the state first
        return f"cancelling an ended job answers {type(error).__name__}"
    return "cancelling an ended job answers nothing"


def a_run_tells_its_outputs_and_joins_an_experiment(scratch: Scratch) -> str | None:
    google = scratch.names.google
    if google.image is None:
        return "skipped: needs IMAGE=…@sha256:…, the job image, whose Python has kfp"
    job_id = new_id(scratch)
    name = create(scratch, job_id, seconds=0, image=google.image)
    pipelines, metadata = scratch.clients.pipelines, scratch.clients.metadata
    until(lambda: pipelines.get_pipeline_job(name=name).state in _ENDED, 15 * _MINUTES, every_s=0.5)
    job = pipelines.get_pipeline_job(name=name)
    assert job.state == v1.PipelineState.PIPELINE_STATE_SUCCEEDED, f"{job.state.name}: {job.error.message}"
    outputs = [dict(task.execution.metadata or {}) for task in job.job_detail.task_details]
    assert any(told.get("output:Output") == 42 for told in outputs), f"no task tells output:Output=42: {outputs}"
    run = job.job_detail.pipeline_run_context
    assert run.name.rpartition("/")[2] == job_id, f"the run's context is {run.name}"
    experiment = experiment_path(scratch.names)
    scratch.undo(f"experiment {experiment}", lambda: metadata.delete_context(name=experiment).result(timeout=60))
    assert associate(scratch.clients, job_id), "the run has no context"
    assert associate(scratch.clients, job_id), "an attach"
    parents = list(metadata.get_context(name=run.name).parent_contexts)
    inside = [parent for parent in parents if parent.rpartition("/")[2] == scratch.names.experiment]
    assert len(inside) == 1, f"parents: {json.dumps(parents)}"
    return None


BELIEFS = (
    Belief("vertex", "a job that nobody created is NOT_FOUND", an_unknown_job_is_not_found),
    Belief("vertex", "a job id matches ^[a-z][-a-z0-9]{0,127}$", a_job_id_has_a_grammar),
    Belief(
        "vertex",
        "a second create under an id is ALREADY_EXISTS; labels come back; cancelling ends in CANCELLED",
        a_second_create_is_refused_and_cancelling_ends_the_job,
    ),
    Belief(
        "vertex",
        "a run tells its outputs in its tasks' metadata, has a context by its id, and joins an experiment once",
        a_run_tells_its_outputs_and_joins_an_experiment,
    ),
)
