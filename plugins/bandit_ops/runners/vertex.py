"""Pipelines on Vertex AI: each run is a PipelineJob whose id is our job id, so a second submit meets the first."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bandit_ops.runners import spec as specs
from bandit_ops.runners.base import JobStatus, Parameters, Pipeline
from bandit_ops.runners.forgotten import ingest_anew
from bandit_ops.runners.vertex_job import parameters_of, spec_of, state_of, status_of
from rl_core.config import Bandit, Settings
from rl_core.environment_config import MovieLens
from rl_core.errors import ConfigError, RunnerError, RunnerUnavailable
from rl_core.google_cloud.clients import GoogleClients
from rl_core.google_cloud.failures import explained, transient
from rl_core.google_cloud.names import LABEL, Names
from rl_core.movielens.data import ratings_digest
from rl_core.waiting import looks

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import PipelineJob

T = TypeVar("T")
log = logging.getLogger(__name__)
SPEC_LABEL = "banditloop-spec"
_JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")


class VertexRunner:
    """A `PipelineRunner` on Vertex AI, which holds one job of an id; safe to call from any process at the same time.

    What may pass (throttling, outages, timeouts, broken connections) is tried again for `patience_s`, then
    RunnerUnavailable; anything else is a RunnerError at once.

    Args:
        forgotten: counts the log's forgotten rows, at each submit.
    """

    patience_s = 20.0
    call_timeout_s = 10.0
    cancel_timeout_s = 300.0

    def __init__(
        self,
        bandit: Bandit,
        clients: GoogleClients,
        settings: Settings,
        root: Path = specs.ROOT,
        forgotten: Callable[[], int] = lambda: 0,
    ) -> None:
        self._bandit = bandit
        self._forgotten = forgotten
        self._clients = clients
        self._settings = settings
        self._names = clients.names
        self._root = root

    def submit(self, job_id: str, pipeline: Pipeline, parameters: Parameters, *, enable_caching: bool = True) -> None:
        """Submit the job; return once Vertex has it.

        One that is there under this id must be the same: spec and parameters.

        Raises:
            RunnerError: the job can't run as it is described, or another holds its id; nothing was started.
        """
        from google.api_core.exceptions import AlreadyExists

        self._name(job_id)  # checks it
        job = self._described(pipeline, parameters, enable_caching)
        try:
            self._ask(
                f"submit {job_id}",
                self._clients.pipelines.create_pipeline_job,
                expected=(AlreadyExists,),
                parent=self._names.parent,
                pipeline_job=job,
                pipeline_job_id=job_id,
            )
        except AlreadyExists:
            self._attach(job_id, job)

    def status(self, job_id: str) -> JobStatus | None:
        job = self._job(job_id)
        if job is None:
            return None
        self._into_experiment(job)
        return status_of(job)

    def cancel(self, job_id: str) -> None:
        """End the job; return once it is terminal. Raises RunnerUnavailable where it isn't after `cancel_timeout_s`."""
        from google.api_core.exceptions import FailedPrecondition, NotFound

        status = self.status(job_id)
        if status is None or status.state.terminal:
            return
        with suppress(FailedPrecondition, NotFound):  # it ended meanwhile
            self._ask(
                f"cancel {job_id}",
                self._clients.pipelines.cancel_pipeline_job,
                expected=(FailedPrecondition, NotFound),
                name=self._name(job_id),
            )
        for _ in looks(self.cancel_timeout_s, 0.2, 5.0):
            if (status := self.status(job_id)) is None or status.state.terminal:
                return
        raise RunnerUnavailable(
            f"{job_id}: not ended {self.cancel_timeout_s:.0f} s after it was cancelled; see {self.url(job_id)}"
        )

    def url(self, job_id: str) -> str:
        return console_url(self._names, job_id)

    def active(self) -> list[str]:
        """Return the jobs of this bandit that have not ended: what a teardown cancels first."""
        ours = f'labels.{LABEL}="{self._names.bandit_id}"'

        def listed(**options: Any) -> list[PipelineJob]:
            return list(self._clients.pipelines.list_pipeline_jobs(**options))

        jobs = self._ask("list the runs", listed, request={"parent": self._names.parent, "filter": ours})
        return sorted(job.name.rpartition("/")[2] for job in jobs if not state_of(job).terminal)

    def _into_experiment(self, job: PipelineJob) -> None:
        """Put the job into its experiment with each look, since its context comes late; a failure is only logged."""
        from rl_core.google_cloud.experiments import associate_job

        try:
            associate_job(self._clients, job)
        except RunnerError as error:
            log.warning("%s", error)

    def _described(self, pipeline: Pipeline, parameters: Parameters, enable_caching: bool) -> PipelineJob:
        from google.cloud.aiplatform_v1.types import EncryptionSpec, PipelineJob

        google = self._names.google
        spec = specs.load(self._root, pipeline)
        parameters = specs.checked(spec, pipeline, parameters)
        specs.refuse_too_long(parameters, self._bandit)
        specs.fill(spec, self._bandit.pipeline_name(pipeline), image_of(self._names), self._step_environment())
        specs.size(spec, google.vertex.cpu, google.vertex.memory)
        specs.cache_where_compiled(spec, enable_caching)
        specs.generate_anew(spec, self._bandit)
        kms_key = google.vertex.kms_key or google.kms_key
        account, network = self._names.account("job"), google.vertex.network or ""
        digest = _digest(spec, parameters, account, network, kms_key)
        # Behind the digest: what is forgotten while a submit is tried again makes no other job.
        ingest_anew(spec, self._forgotten() if enable_caching else 0)
        job = PipelineJob(
            display_name=google.vertex.display_name or self._bandit.pipeline_name(pipeline),
            pipeline_spec=spec,
            runtime_config={"gcs_output_directory": self._names.pipeline_root, "parameter_values": parameters},
            service_account=account,
            network=network,
            labels={**google.vertex.labels, **self._names.labels, "bandit": self._bandit.name, SPEC_LABEL: digest},
        )
        if kms_key is not None:
            job.encryption_spec = EncryptionSpec(kms_key_name=kms_key)
        return job

    def _step_environment(self) -> dict[str, str]:
        """The digest of the ratings is part of the cache key; unknown where the steps will download them.

        The image is what the deployer's versions are served by.
        """
        digest = ratings_digest(self._settings) if isinstance(self._bandit.environment, MovieLens) else "none"
        ratings = {} if digest == "none" else {"RATINGS_MD5": digest}
        return {**ratings, "BANDIT_IMAGE": image_of(self._names)}

    def _attach(self, job_id: str, wanted: PipelineJob) -> None:
        """Raises RunnerError where the job of this id is another one than `wanted`."""
        found = self._job(job_id)
        if found is None:
            raise RunnerUnavailable(f"{job_id}: Vertex has the id and does not find the job; it is being deleted")
        if found.labels.get(SPEC_LABEL) != wanted.labels[SPEC_LABEL]:
            raise RunnerError(
                f"{job_id} exists and runs something else ({differences(found, wanted)}); "
                f"clear the task to start another job, or see {self.url(job_id)}"
            )

    def _job(self, job_id: str) -> PipelineJob | None:
        from google.api_core.exceptions import NotFound

        try:
            return self._ask(
                f"read {job_id}",
                self._clients.pipelines.get_pipeline_job,
                expected=(NotFound,),
                name=self._name(job_id),
            )
        except NotFound:
            return None

    def _name(self, job_id: str) -> str:
        if not _JOB_ID.fullmatch(job_id):
            raise RunnerError(f"job id {job_id!r} must match ^{_JOB_ID.pattern}$; shorten prefix or pipe_version")
        return f"{self._names.parent}/pipelineJobs/{job_id}"

    def _ask(
        self, what: str, call: Callable[..., T], *, expected: tuple[type[Exception], ...] = (), **arguments: Any
    ) -> T:
        """Google's answer. Raises what is `expected` as it is, RunnerUnavailable, or RunnerError."""
        role = f"roles/aiplatform.user on the project and roles/iam.serviceAccountUser on {self._names.account('job')}"
        with explained(RunnerError, what, self._names, role):
            try:
                return self._patiently(what, call, arguments)
            except expected as error:
                answer = error
        raise answer

    def _patiently(self, what: str, call: Callable[..., T], arguments: dict[str, Any]) -> T:
        for left in looks(self.patience_s, 0.25, 5.0, jitter=True):
            try:
                return call(**arguments, retry=None, timeout=max(0.5, min(self.call_timeout_s, left)))
            except Exception as error:
                if not transient(error):
                    raise
                last = error
        said = " ".join(str(getattr(last, "message", None) or last).split())
        raise RunnerUnavailable(
            f"{what}: no answer from Vertex within {self.patience_s:.0f} s ({said}); if this lasts, "
            f"correct google.region={self._names.region} or the network"
        ) from last


def image_of(names: Names) -> str:
    """Return the job image. Raises ConfigError where the bandit names none."""
    if names.google.image is None:
        raise ConfigError(
            f"{names.bandit_id}: google.image is not set, and Vertex runs steps in it; build the job image "
            f"(gcloud builds submit) and set google.image: {names.image_base}@sha256:…"
        )
    return names.google.image


def console_url(names: Names, job_id: str) -> str:
    """Return the address of a pipeline run in Google's console."""
    return (
        f"https://console.cloud.google.com/vertex-ai/locations/{names.region}/pipelines/runs/{job_id}"
        f"?project={names.project}"
    )


def differences(found: PipelineJob, wanted: PipelineJob) -> str:
    """Say in what two jobs differ, in words, e.g. "parameter windows, image of trainer"."""
    mine, theirs = parameters_of(wanted), parameters_of(found)
    changed = [f"parameter {name}" for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name)]
    executors = [spec_of(job).get("deploymentSpec", {}).get("executors", {}) for job in (wanted, found)]
    for step in sorted(executors[0].keys() | executors[1].keys()):
        one, other = (side.get(step, {}).get("container", {}) for side in executors)
        changed += [f"{key} of {step}" for key in sorted(one | other) if one.get(key) != other.get(key)]
    for field in ("service_account", "network", "encryption_spec"):
        if getattr(found, field) != getattr(wanted, field):
            changed.append(field)
    return ", ".join(changed) or "another version of the pipeline"


def _digest(*what: Any) -> str:
    """Shortened to what a label's value may hold."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:40]
