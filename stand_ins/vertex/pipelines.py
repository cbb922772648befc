"""`PipelineService`: jobs that are kept, and really run; or play the states that a test has written for them."""

from __future__ import annotations

import re
import shutil
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import grpc
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2, status_pb2

from bandit_ops.runners.base import JobState
from rl_core.errors import RunnerError
from stand_ins.faults import Faults
from stand_ins.grpc_service import Rpc, not_found, service
from stand_ins.vertex.metadata import MetadataState
from stand_ins.vertex.operations import Operations
from stand_ins.vertex.pipeline_details import Told, show
from stand_ins.vertex.pipeline_rules import check_job, parameters_of, refuse, spec_of
from stand_ins.vertex.pipeline_runs import REPOSITORY, PipelineRuns

_TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
_FILTER = re.compile(r'(?P<field>state|pipeline_name|display_name|labels\.[a-z0-9_-]+)\s*[=:]\s*"(?P<value>[^"]*)"')


class Pipelines:
    """Attributes:
    created: the ids of every job that was ever created, in order: what Google bills.
    executed: those whose steps were really started.
    looks: how often each job was asked for and told.
    deaf: whether cancelling is accepted and never done.
    runs: set `runs.root` for other code than this repository's.
    step_environment: variables of the steps.
    """

    def __init__(self, folder: Path, project: str, region: str, faults: Faults, operations: Operations) -> None:
        self._folder = folder / "pipeline_jobs"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._project, self._region = project, region
        self._faults = faults
        self._operations = operations
        self._metadata = MetadataState(folder)
        self._lock = threading.RLock()
        self._scripts: list[tuple[str, list[str]]] = []
        self._played: dict[str, list[str]] = {}
        self.step_environment: dict[str, str] = {}
        self.runs = PipelineRuns(self._folder, REPOSITORY, self.step_environment)
        self.created: list[str] = []
        self.executed: list[str] = []
        self.deaf = False
        self.looks: Counter[str] = Counter()
        self._jobs = {
            path.parent.name: v1.PipelineJob.from_json(path.read_text())
            for path in self._folder.glob("*/pipeline_job.json")
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs."""
        for job_id in self.executed:
            self.runs.kill(job_id)

    def script(self, prefix: str, states: list[str]) -> None:
        """Jobs created from now on whose id begins with `prefix` do not run: they play these states.

        Each GetPipelineJob shows the next one, e.g. ["PENDING", "RUNNING", "SUCCEEDED"]; the last one stays.
        """
        with self._lock:
            self._scripts.insert(0, (prefix, list(states)))

    def play(self, job_id: str, *states: str) -> None:
        """The further states of a scripted job; the first one is there at once."""
        with self._lock:
            self._move(job_id, states[0])
            self._played[job_id] = list(states[1:])

    def states(self, prefix: str = "") -> dict[str, str]:
        """The state of every job there is, e.g. "RUNNING", without playing on."""
        with self._lock:
            return {
                job_id: self._current(job_id).state.name.removeprefix("PIPELINE_STATE_")
                for job_id in sorted(self._jobs)
                if job_id.startswith(prefix)
            }

    def live(self, prefix: str = "") -> list[str]:
        return [job_id for job_id, state in self.states(prefix).items() if state not in _TERMINAL]

    def job(self, job_id: str) -> v1.PipelineJob:
        with self._lock:
            return self._current(job_id)

    def service(self) -> grpc.GenericRpcHandler:
        rpcs = {
            "CreatePipelineJob": Rpc(self._create, v1.CreatePipelineJobRequest, v1.PipelineJob),
            "GetPipelineJob": Rpc(self._get, v1.GetPipelineJobRequest, v1.PipelineJob),
            "ListPipelineJobs": Rpc(self._list, v1.ListPipelineJobsRequest, v1.ListPipelineJobsResponse),
            "CancelPipelineJob": Rpc(self._cancel, v1.CancelPipelineJobRequest, empty_pb2.Empty),
            "DeletePipelineJob": Rpc(self._delete, v1.DeletePipelineJobRequest, operations_pb2.Operation),
        }
        return service("google.cloud.aiplatform.v1.PipelineService", rpcs, self._faults)

    def _create(self, request: v1.CreatePipelineJobRequest) -> v1.PipelineJob:
        self._check_place(request.parent)
        job, job_id = request.pipeline_job, request.pipeline_job_id
        check_job(job, job_id)
        spec = spec_of(job)
        with self._lock:
            job_id = job_id or f"{spec['pipelineInfo']['name']}-{len(self.created)}"[:128]
            if job_id in self._jobs:
                refuse(f"entity already exists: {request.parent}/pipelineJobs/{job_id}", grpc.StatusCode.ALREADY_EXISTS)
            job.name = f"{request.parent}/pipelineJobs/{job_id}"
            job.state = v1.PipelineState.PIPELINE_STATE_PENDING
            job.create_time = job.update_time = datetime.now(UTC)
            job.labels["vertex-ai-pipelines-run-billing-id"] = str(len(self.created) + 1)
            self._jobs[job_id] = job
            self.created.append(job_id)
            self._keep(job_id)
            script = next((list(states) for prefix, states in self._scripts if job_id.startswith(prefix)), None)
            if script is not None:
                self._played[job_id] = script
            else:
                self._start(job_id, job, spec)
            return self._current(job_id)

    def _start(self, job_id: str, job: v1.PipelineJob, spec: dict[str, Any]) -> None:
        self.executed.append(job_id)
        try:
            self.runs.start(job_id, spec, parameters_of(job), self._project)
        except (RunnerError, OSError, ValueError) as error:
            self._move(job_id, "FAILED", str(error))

    def _get(self, request: v1.GetPipelineJobRequest) -> v1.PipelineJob:
        job_id = self._known(request.name)
        with self._lock:
            self.looks[job_id] += 1
            if self._played.get(job_id):
                self._move(job_id, self._played[job_id].pop(0))
            return self._current(job_id)

    def _list(self, request: v1.ListPipelineJobsRequest) -> v1.ListPipelineJobsResponse:
        self._check_place(request.parent)
        terms = [term for term in re.split(r"\s+AND\s+", request.filter) if term.strip()]
        with self._lock:
            jobs = [self._current(job_id) for job_id in sorted(self._jobs)]
        chosen = [v1.PipelineJob(job) for job in jobs if all(_matches(term, job) for term in terms)]
        for job in chosen:  # "not available in the list view"
            job.job_detail = None
        return v1.ListPipelineJobsResponse(pipeline_jobs=chosen)

    def _cancel(self, request: v1.CancelPipelineJobRequest) -> empty_pb2.Empty:
        job_id = self._known(request.name)
        with self._lock:
            if self._ended(job_id):
                refuse(f"{request.name} has ended already", grpc.StatusCode.FAILED_PRECONDITION)
            if self.deaf:
                return empty_pb2.Empty()
            if job_id in self._played:
                self.play(job_id, "CANCELLING", "CANCELLED")
            else:
                self._move(job_id, "CANCELLING")
                self.runs.cancel(job_id)
        return empty_pb2.Empty()

    def _delete(self, request: v1.DeletePipelineJobRequest) -> operations_pb2.Operation:
        job_id = self._known(request.name)
        with self._lock:
            if not self._ended(job_id):
                refuse(f"{request.name} has not ended", grpc.StatusCode.FAILED_PRECONDITION)
            del self._jobs[job_id]
            shutil.rmtree(self._folder / job_id)
        return self._operations.done(request.name)

    def _current(self, job_id: str) -> v1.PipelineJob:
        """The job as it is now; the process that executes it is asked."""
        job = self._jobs[job_id]
        if job_id not in self._played and self.runs.of(job_id).path.joinpath("job.json").exists():
            status = self.runs.status(job_id)
            if status.state.terminal or job.state.name != "PIPELINE_STATE_CANCELLING":
                self._move(job_id, status.state.value, status.message)
        return job

    def _move(self, job_id: str, state: str, message: str = "") -> None:
        job = self._jobs[job_id]
        new = v1.PipelineState[f"PIPELINE_STATE_{state}"]
        begins = state not in ("QUEUED", "PENDING")
        if job.state == new and not (state == "RUNNING" and job_id not in self._played):
            return
        now = datetime.now(UTC)
        if job.state != new:
            job.update_time = now
        if begins and not job.start_time:
            job.start_time = now
        if state in _TERMINAL:
            job.end_time = now
        if state in ("FAILED", "CANCELLED"):
            code = code_pb2.CANCELLED if state == "CANCELLED" else code_pb2.FAILED_PRECONDITION
            job.error = status_pb2.Status(code=code, message=message or f"The pipeline job is {state.lower()}.")
        job.state = new
        if begins:
            show(job, self._told(job_id, job, state, message), self._metadata)
        self._keep(job_id)

    def _told(self, job_id: str, job: v1.PipelineJob, state: str, message: str) -> Told:
        if job_id in self._played:
            return Told({}, {}, message)
        name = spec_of(job)["pipelineInfo"]["name"]
        results = self.runs.results(job_id, self._project, name) if state == "SUCCEEDED" else {}
        outputs = self.runs.status(job_id).outputs if state == JobState.SUCCEEDED else {}
        return Told(self.runs.steps(job_id), results, message, outputs)

    def _ended(self, job_id: str) -> bool:
        return self._current(job_id).state.name.removeprefix("PIPELINE_STATE_") in _TERMINAL

    def _keep(self, job_id: str) -> None:
        place = self._folder / job_id
        place.mkdir(exist_ok=True)
        partial = place / "pipeline_job.partial"
        partial.write_text(v1.PipelineJob.to_json(self._jobs[job_id], indent=None))
        partial.replace(place / "pipeline_job.json")

    def _check_place(self, parent: str) -> None:
        project, _, region = parent.removeprefix("projects/").partition("/locations/")
        if region != self._region:
            refuse(f"The location of {parent} is not {self._region}, which this endpoint serves")
        if project != self._project:
            refuse(
                f"Permission denied on resource project {project} (or it may not exist).",
                grpc.StatusCode.PERMISSION_DENIED,
            )

    def _known(self, name: str) -> str:
        parent, _, job_id = name.partition("/pipelineJobs/")
        self._check_place(parent)
        return job_id if job_id in self._jobs else not_found(name)


def _matches(term: str, job: v1.PipelineJob) -> bool:
    match = _FILTER.fullmatch(term.strip())
    if match is None:
        refuse(f"filter {term!r} is not one that this stand-in knows")
    field, value = match["field"], match["value"]
    if field.startswith("labels."):
        return bool(job.labels.get(field.removeprefix("labels.")) == value)
    if field == "pipeline_name":
        return bool(spec_of(job)["pipelineInfo"]["name"] == value)
    return bool((job.state.name if field == "state" else job.display_name) == value)
