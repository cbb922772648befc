"""Reads a Vertex PipelineJob in a runner's terms. Pure functions over the API's own message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bandit_ops.runners.base import JobState, JobStatus

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import PipelineJob

OUTPUTS_MAY_LAG = timedelta(minutes=1)
"""A job that ended so short a time ago may not have told its outputs yet."""

_MESSAGE_MOST = 600
_STATES = {
    "PIPELINE_STATE_UNSPECIFIED": JobState.PENDING,
    "PIPELINE_STATE_QUEUED": JobState.PENDING,
    "PIPELINE_STATE_PENDING": JobState.PENDING,
    "PIPELINE_STATE_RUNNING": JobState.RUNNING,
    "PIPELINE_STATE_CANCELLING": JobState.RUNNING,
    "PIPELINE_STATE_PAUSED": JobState.PAUSED,
    "PIPELINE_STATE_SUCCEEDED": JobState.SUCCEEDED,
    "PIPELINE_STATE_FAILED": JobState.FAILED,
    "PIPELINE_STATE_CANCELLED": JobState.CANCELLED,
}


def status_of(job: PipelineJob) -> JobStatus:
    """Return a job's status. A state that this version of the API does not know is RUNNING.

    That is neither a success nor a reason to start anew.
    """
    state = state_of(job)
    outputs, missing = outputs_of(job)
    if state is JobState.SUCCEEDED:
        ended = job.end_time
        if missing and ended and datetime.now(UTC) - ended < OUTPUTS_MAY_LAG:
            return JobStatus(JobState.RUNNING, f"succeeded; Vertex has not told its outputs {', '.join(missing)} yet")
        return JobStatus(state, f"Vertex told no output {', '.join(missing)}" if missing else "", outputs)
    message = _message(job) if state in (JobState.FAILED, JobState.CANCELLED) else ""
    return JobStatus(state, message, {} if missing else outputs)


def state_of(job: PipelineJob) -> JobState:
    return _STATES.get(getattr(job.state, "name", ""), JobState.RUNNING)


def outputs_of(job: PipelineJob) -> tuple[dict[str, Any], list[str]]:
    """Return the pipeline's outputs, and the names of those that the job does not hold.

    Vertex keeps a task's outputs as `output:<name>` in the metadata of its execution.
    """
    spec = spec_of(job)
    root = spec.get("root", {})
    types = root.get("outputDefinitions", {}).get("parameters", {})
    told = {
        (detail.task_name, key.removeprefix("output:")): value
        for detail in job.job_detail.task_details
        for key, value in dict(detail.execution.metadata or {}).items()
        if key.startswith("output:")
    }
    found, missing = {}, []
    for name, source in root.get("dag", {}).get("outputs", {}).get("parameters", {}).items():
        chosen = source.get("valueFromParameter", {})
        value = told.get((chosen.get("producerSubtask"), chosen.get("outputParameterKey")))
        if value is None:
            missing.append(name)
        else:
            found[name] = _typed(value, types.get(name, {}).get("parameterType", ""))
    return found, missing


def spec_of(job: PipelineJob) -> dict[str, Any]:
    """Return the pipeline spec as plain JSON values."""
    from google.protobuf import json_format

    found: dict[str, Any] = json_format.MessageToDict(type(job).pb(job).pipeline_spec)
    return found


def parameters_of(job: PipelineJob) -> dict[str, Any]:
    """Return the parameters as plain JSON values."""
    from google.protobuf import json_format

    values = type(job).pb(job).runtime_config.parameter_values
    return {name: json_format.MessageToDict(value) for name, value in values.items()}


def _typed(value: Any, kind: str) -> Any:
    """Numbers of a Struct are doubles, and a boolean may come as a word."""
    if kind == "BOOLEAN" and not isinstance(value, bool):
        return str(value).lower() in ("true", "1", "1.0")
    if kind == "NUMBER_INTEGER":
        return int(value)
    if kind == "NUMBER_DOUBLE":
        return float(value)
    return str(value) if kind == "STRING" else value


def _message(job: PipelineJob) -> str:
    failed = [
        f"{detail.task_name}: {detail.error.message}"
        for detail in job.job_detail.task_details
        if detail.state.name == "FAILED" and detail.error.message
    ]
    if job.error.message and not any(job.error.message in one for one in failed):
        failed.append(job.error.message)
    said = " ".join("; ".join(failed).split())
    return said[:_MESSAGE_MOST]
