"""Pipelines on this machine: each run is `kfp.local` in a detached process that outlives whoever submitted it."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bandit_ops.runners import spec as specs
from bandit_ops.runners.base import JobState, JobStatus, Parameters, Pipeline
from bandit_ops.runners.forgotten import forgotten_rows, ingest_anew
from bandit_ops.runners.job_folder import JobFolder
from bandit_ops.runners.launch import START_TIMEOUT_S, launch, unfit
from rl_core.config import Bandit, Settings
from rl_core.environment_config import MovieLens
from rl_core.errors import RunnerError, RunnerUnavailable
from rl_core.files import locked, write_atomically
from rl_core.movielens.data import ratings_digest
from rl_core.waiting import looks

_JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
_CANCEL_GRACE_S = 5.0
_POLL_S = 0.02
_STARTS = 2


@contextmanager
def _disk() -> Iterator[None]:
    """Turn a full or failing disk into RunnerUnavailable: there may be room later, and the same call goes on then."""
    try:
        yield
    except OSError as error:
        raise RunnerUnavailable(f"{error.filename or 'the job folder'}: {error.strerror}; asking again") from error


class LocalRunner:
    """A `PipelineRunner` on this machine; runs lie in `$BANDIT_HOME/{prefix}-{pipe_version}/runs/<job_id>/`.

    Every method may be called from any process, at the same time: the folder's lock decides.

    Args:
        forgotten: counts the log's forgotten rows; default: as the process's own account.
    """

    def __init__(
        self,
        bandit: Bandit,
        settings: Settings,
        root: Path = specs.ROOT,
        forgotten: Callable[[], int] | None = None,
    ) -> None:
        self._bandit = bandit
        self._forgotten = forgotten or partial(forgotten_rows, bandit, settings)
        self._settings = settings.model_copy(update={"home": Path(os.path.realpath(settings.home))})
        self._runs = self._settings.state_dir(bandit) / "runs"
        self._root = root

    def submit(self, job_id: str, pipeline: Pipeline, parameters: Parameters, *, enable_caching: bool = True) -> None:
        """Start the job; return once its process runs, or has run. A second submit of an id joins the first.

        Raises:
            RunnerError: the parameters don't fit the pipeline, or BANDIT_JOB_PYTHON can't run it; nothing has run.
        """
        with _disk():
            self._submit(self._folder(job_id), pipeline, parameters, enable_caching)

    def _submit(self, job: JobFolder, pipeline: Pipeline, parameters: Parameters, enable_caching: bool) -> None:
        if job.verdict() is not None:
            return
        spec = specs.load(self._root, pipeline)
        parameters = specs.checked(spec, pipeline, parameters)
        specs.refuse_too_long(parameters, self._bandit)
        job.path.mkdir(parents=True, exist_ok=True)
        starts = 0
        for _ in looks(START_TIMEOUT_S, _POLL_S):
            if (status := job.settle()) not in (None, JobStatus(JobState.PENDING)):
                return
            if status is None and starts == _STARTS:  # once may be chance: a process can be killed before it has begun
                raise unfit(job, self._settings, "it ended at once")
            with job.locked() as lock:
                if lock is not None and job.verdict() is None:
                    self._prepare(job, pipeline, spec, parameters, enable_caching)
                    launch(job, lock, self._settings, self._root)
                    starts += 1
        raise RunnerUnavailable(f"{job.path.name}: did not start within {START_TIMEOUT_S:.0f} s: {job.log_tail()}")

    def status(self, job_id: str) -> JobStatus | None:
        """Return the job's status; None also where a submitter died before the job began: submit it again.

        A job found dead without a verdict is FAILED, once nothing of it is left alive.
        """
        job = self._folder(job_id)
        with _disk():
            return job.settle() if job.path.is_dir() else None

    def cancel(self, job_id: str) -> None:
        job = self._folder(job_id)
        if job.path.is_dir():
            with _disk():
                _cancel(job)

    def url(self, job_id: str) -> str:
        return self._folder(job_id).path.as_uri()

    def active(self) -> list[str]:
        """Return the jobs of this bandit that are alive: what a teardown cancels first."""
        return [job.path.name for job in _active(self._runs)]

    def _folder(self, job_id: str) -> JobFolder:
        if not _JOB_ID.fullmatch(job_id):
            raise RunnerError(f"job id {job_id!r} must match ^{_JOB_ID.pattern}$")
        return JobFolder(self._runs / job_id)

    def _prepare(
        self, job: JobFolder, pipeline: Pipeline, spec: dict[str, Any], parameters: Parameters, enable_caching: bool
    ) -> None:
        name = self._bandit.pipeline_name(pipeline)
        image = f"python-banditloop:{self._state_identity()}@sha256:{specs.code_digest(self._root)}"
        movielens = isinstance(self._bandit.environment, MovieLens)
        specs.fill(spec, name, image, {"RATINGS_MD5": ratings_digest(self._settings)} if movielens else {})
        specs.generate_anew(spec, self._bandit)
        ingest_anew(spec, self._forgotten() if enable_caching else 0)
        write_atomically(job.path / "spec.yaml", yaml.safe_dump(spec, sort_keys=True).encode())
        description = {
            "job_id": job.path.name,
            "pipeline": pipeline,
            "pipeline_name": name,
            "image": image,
            "parameters": parameters,
            "caching": enable_caching,
            "cache_dir": str(self._settings.home / "cache" / name),
        }
        write_atomically(job.path / "job.json", json.dumps(description, indent=1).encode())

    def _state_identity(self) -> str:
        """Names this incarnation of the bandit's state: outputs cached before a teardown don't count afterwards."""
        path = self._runs.parent / ".identity"
        with locked(path.with_name(".identity.lock"), "the identity of the state"):
            if not path.exists():
                write_atomically(path, uuid.uuid4().hex[:12].encode())
        return path.read_text()


def cancel_all(home: Path) -> None:
    """Cancel every live job under a BANDIT_HOME, also of a bandit whose YAML is gone."""
    for runs in home.glob("*/runs"):
        for job in _active(runs):
            with _disk():
                _cancel(job)


def _active(runs: Path) -> list[JobFolder]:
    jobs = [JobFolder(path) for path in sorted(runs.glob("*/")) if _JOB_ID.fullmatch(path.name)]
    with _disk():
        return [job for job in jobs if (status := job.settle()) is not None and not status.state.terminal]


def _cancel(job: JobFolder) -> None:
    if _ended(job):
        return
    job.ask_cancel()
    for _ in looks(_CANCEL_GRACE_S, _POLL_S):
        if _ended(job):
            return
        job.signal_all(signal.SIGTERM)
    for _ in looks(math.inf, _POLL_S):
        if _ended(job):
            return
        job.kill_all()


def _ended(job: JobFolder) -> bool:
    status = job.settle()
    return status is not None and status.state.terminal
