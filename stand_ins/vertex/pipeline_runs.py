"""Executes submitted pipelines with kfp.local, each in a detached process group of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bandit_ops.runners.base import JobState, JobStatus
from bandit_ops.runners.job_folder import MARK, JobFolder
from rl_core.errors import RunnerError

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_START_TIMEOUT_S = 60.0


class PipelineRuns:
    """Args:
    folder: holds one folder for each job.
    root: where the steps find rl_core and pipeline_defs, as in the job image.
    environment: variables of the steps, beside those of this process.
    """

    def __init__(self, folder: Path, root: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self.root = root
        self._environment = environment

    def start(self, job_id: str, spec: Mapping[str, Any], parameters: Mapping[str, Any], project: str) -> None:
        """Return once the process has detached. Raises RunnerError where it can't begin."""
        job = self.of(job_id)
        job.path.mkdir(parents=True, exist_ok=True)
        name = spec["pipelineInfo"]["name"]
        (job.path / "spec.yaml").write_text(yaml.safe_dump(dict(spec)))
        description = {
            "job_id": job_id,
            "pipeline_name": name,
            "parameters": _whole_numbers(spec, parameters),
            "caching": True,  # each task's cachingOptions decide
            "cache_dir": str(self._folder / ".cache" / project / name),
        }
        (job.path / "job.json").write_text(json.dumps(description, indent=1))
        command = [sys.executable, "-m", "pipeline_defs.run_local", str(job.path)]
        with job.locked() as lock, (job.path / "log.txt").open("wb") as log:
            if lock is None:
                raise RunnerError(f"{job_id}: somebody holds {job.path}/lock")
            subprocess.run(
                [*command, "--lock", str(lock)],
                cwd=job.path,
                env=self._variables() | {MARK: str(job.path)},
                pass_fds=[lock],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=_START_TIMEOUT_S,
            )

    def of(self, job_id: str) -> JobFolder:
        return JobFolder(self._folder / job_id)

    def status(self, job_id: str) -> JobStatus:
        """A process that died without a verdict is FAILED, after what it left is ended."""
        return self.of(job_id).settle() or JobStatus(JobState.PENDING)

    def steps(self, job_id: str) -> dict[str, str]:
        """RUNNING, SUCCEEDED, SKIPPED (cached) or FAILED, by the names of the steps begun."""
        path = self.of(job_id).path / "steps.json"
        return {step["step"]: step["state"] for step in json.loads(path.read_text())} if path.exists() else {}

    def results(self, job_id: str, project: str, pipeline: str) -> dict[str, dict[str, Any]]:
        """What each step that ran wrote: `{"parameterValues": {…}, "artifacts": {…}}`, by step."""
        place = self._folder / ".cache" / project / pipeline / "artifacts" / job_id
        return {path.parent.name: json.loads(path.read_text()) for path in place.rglob("executor_output.json")}

    def cancel(self, job_id: str) -> None:
        """Ask the processes to end; `status` makes sure of it."""
        job = self.of(job_id)
        job.ask_cancel()
        job.signal_all(signal.SIGKILL)

    def kill(self, job_id: str) -> None:
        if self.of(job_id).path.is_dir():
            self.of(job_id).kill_all()

    def _variables(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BANDIT_", "AIRFLOW_"))}
        return {**inherited, **self._environment, "PYTHONPATH": str(self.root)}


def _whole_numbers(spec: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in their declared types: numbers of a Struct are doubles."""
    declared = spec["root"]["inputDefinitions"]["parameters"]
    whole = {name for name in parameters if declared[name]["parameterType"] == "NUMBER_INTEGER"}
    return {name: int(value) if name in whole else value for name, value in parameters.items()}
