"""`job_detail`: what Vertex tells of the tasks of a run, and what it notes of the run in ML Metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.rpc import code_pb2, status_pb2

from stand_ins.vertex.metadata import MetadataState
from stand_ins.vertex.pipeline_rules import parameters_of, spec_of

_STATES = v1.PipelineTaskDetail.State
_EXAMPLES: Mapping[str, Any] = {"STRING": "an output", "NUMBER_INTEGER": 1.0, "NUMBER_DOUBLE": 1.0, "BOOLEAN": True}


@dataclass(frozen=True)
class Told:
    """What is known of a run: the states and results of its steps, why it failed, the pipeline's outputs."""

    steps: Mapping[str, str]
    results: Mapping[str, Mapping[str, Any]]
    message: str
    outputs: Mapping[str, Any] | None = field(default=None)


def show(job: v1.PipelineJob, told: Told, metadata: MetadataState) -> None:
    """Write `job_detail`. A run that was scripted has no steps: its outputs are examples of the declared types."""
    spec = spec_of(job)
    inputs, run = parameters_of(job), job.job_detail.pipeline_run_context.name
    job.job_detail.pipeline_run_context = (
        metadata.get(run) if run else metadata.pipeline_run(job.name, spec["pipelineInfo"]["name"], inputs)
    )
    succeeded = job.state == v1.PipelineState.PIPELINE_STATE_SUCCEEDED
    details = [_detail(number, name, state, told.message) for number, (name, state) in enumerate(told.steps.items(), 1)]
    outputs = _pipeline_outputs(spec, told) if succeeded else {}
    for task in sorted(outputs.keys() - told.steps.keys()):
        details.append(_detail(len(details) + 1, task, "SUCCEEDED", ""))
    for detail in details:
        result = told.results.get(detail.task_name, {})
        values = {**result.get("parameterValues", {}), **outputs.get(detail.task_name, {})}
        detail.execution = v1.Execution(
            name=f"{job.name.split('/pipelineJobs/')[0]}/metadataStores/default/executions/{detail.task_id}",
            display_name=detail.task_name,
            schema_title="system.ContainerExecution",
            schema_version="0.0.1",
            metadata={f"output:{key}": value for key, value in values.items()},
        )
        if succeeded:
            _note_metrics(job, result, metadata)
    job.job_detail.task_details = details


def _detail(number: int, name: str, state: str, message: str) -> v1.PipelineTaskDetail:
    detail = v1.PipelineTaskDetail(task_id=number, task_name=name, state=_STATES[state])
    if state == "FAILED":
        words = message.removeprefix(f"{name}: ") or "The replica exited with a non-zero status of 1."
        detail.error = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message=words)
    return detail


def _pipeline_outputs(spec: Mapping[str, Any], told: Told) -> dict[str, dict[str, Any]]:
    """The pipeline's outputs, by the task that made them and that task's own name for them."""
    root = spec["root"]
    types = root.get("outputDefinitions", {}).get("parameters", {})
    found: dict[str, dict[str, Any]] = {}
    for name, source in root["dag"].get("outputs", {}).get("parameters", {}).items():
        chosen = source["valueFromParameter"]
        example = _EXAMPLES[types[name]["parameterType"]]
        value = example if told.outputs is None else told.outputs[name]
        found.setdefault(chosen["producerSubtask"], {})[chosen["outputParameterKey"]] = value
    return found


def _note_metrics(job: v1.PipelineJob, result: Mapping[str, Any], metadata: MetadataState) -> None:
    run = job.job_detail.pipeline_run_context.name
    for name, listed in result.get("artifacts", {}).items():
        for artifact in listed.get("artifacts", []):
            measured = {
                key: value for key, value in artifact.get("metadata", {}).items() if isinstance(value, int | float)
            }
            if measured:
                metadata.pipeline_metrics(run, name, measured)
