"""What Vertex AI Pipelines demands of a PipelineJob. Messages name the field, as Google's do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import grpc
from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from stand_ins.grpc_service import ApiError

JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
_LABEL = re.compile(r"[a-z0-9_-]{0,63}")
_IMAGE = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_ACCOUNT = re.compile(r"[^@\s]+@[^@\s]+\.gserviceaccount\.com")
_NETWORK = re.compile(r"projects/[^/]+/global/networks/[^/]+")
_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")
_OUTPUT_ONLY = ("name", "state", "job_detail", "error", "create_time", "start_time", "end_time", "update_time")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "STRING": str,
    "NUMBER_INTEGER": float,
    "NUMBER_DOUBLE": float,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


def refuse(message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> NoReturn:
    raise ApiError(code, message)


def spec_of(job: v1.PipelineJob) -> dict[str, Any]:
    found: dict[str, Any] = json_format.MessageToDict(v1.PipelineJob.pb(job).pipeline_spec)
    return found


def parameters_of(job: v1.PipelineJob) -> dict[str, Any]:
    values = v1.PipelineJob.pb(job).runtime_config.parameter_values
    return {name: json_format.MessageToDict(value) for name, value in values.items()}


def check_job(job: v1.PipelineJob, job_id: str) -> None:
    """Raises ApiError: INVALID_ARGUMENT."""
    if job_id and JOB_ID.fullmatch(job_id) is None:
        refuse(f"pipeline_job_id {job_id!r} must match ^{JOB_ID.pattern}$")
    for field in _OUTPUT_ONLY:
        if field in job:
            refuse(f"pipeline_job.{field} is output only")
    if len(job.display_name) > 128:
        refuse(f"pipeline_job.display_name has {len(job.display_name)} characters, at most 128 are allowed")
    _check_labels(job.labels)
    if not re.fullmatch(r"gs://[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9](/.*)?", job.runtime_config.gcs_output_directory):
        refuse(f"runtime_config.gcs_output_directory {job.runtime_config.gcs_output_directory!r} is no gs:// path")
    if job.service_account and not _ACCOUNT.fullmatch(job.service_account):
        refuse(f"service_account {job.service_account!r} is not the e-mail of a service account")
    if job.network and not _NETWORK.fullmatch(job.network):
        refuse(f"network {job.network!r} is not of the form projects/<number>/global/networks/<name>")
    if job.encryption_spec.kms_key_name and not _KEY.fullmatch(job.encryption_spec.kms_key_name):
        refuse(f"encryption_spec.kms_key_name {job.encryption_spec.kms_key_name!r} is not the name of a key")
    spec = spec_of(job)
    _check_spec(spec)
    _check_parameters(spec, parameters_of(job))


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > 64:
        refuse(f"labels: {len(labels)} are given, at most 64 are allowed")
    for key, value in labels.items():
        if not key or not _LABEL.fullmatch(key) or not _LABEL.fullmatch(value):
            refuse(f"label {key!r}: {value!r} may hold 63 of a-z, 0-9, _ and -")


def _check_spec(spec: Mapping[str, Any]) -> None:
    try:
        parsed = json_format.ParseDict(dict(spec), pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as error:
        refuse(f"pipeline_spec is no compiled pipeline: {error}")
    if not parsed.schema_version.startswith("2.") or not parsed.pipeline_info.name or not parsed.root.dag.tasks:
        refuse("pipeline_spec needs a schemaVersion 2, pipelineInfo.name and root.dag.tasks")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", parsed.pipeline_info.name):
        refuse(f"pipelineInfo.name {parsed.pipeline_info.name!r} must match ^[a-z0-9][a-z0-9-]{{0,127}}$")
    for name, executor in spec.get("deploymentSpec", {}).get("executors", {}).items():
        image = executor.get("container", {}).get("image", "")
        if not _IMAGE.fullmatch(image):  # stricter than Vertex: a tag is another image tomorrow
            refuse(f"deploymentSpec.executors.{name}.container.image {image!r} is not named by digest")


def _check_parameters(spec: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if unknown := sorted(given.keys() - declared.keys()):
        refuse(f"runtime_config.parameter_values has {unknown[0]!r}, which the pipeline does not declare")
    for name, rule in declared.items():
        if name not in given:
            if not rule.get("isOptional", False) and "defaultValue" not in rule:
                refuse(f"runtime_config.parameter_values lacks {name!r}")
        elif not isinstance(given[name], _KINDS[rule["parameterType"]]):
            refuse(f"runtime_config.parameter_values[{name!r}] is no {rule['parameterType']}: {given[name]!r}")
