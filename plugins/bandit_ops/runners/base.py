"""The contract of a pipeline runner: what the three tasks submit, wait and cancel_if_active stand on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

Pipeline = Literal["startup", "retrain"]
Parameters = dict[str, str | int | float | bool]


class JobState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class JobStatus:
    """`outputs` are the pipeline's outputs (small JSON values); `message` says why it failed."""

    state: JobState
    message: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)


class PipelineRunner(Protocol):
    """Every method may raise RunnerUnavailable: the same call may succeed later. Any other RunnerError stays."""

    def submit(self, job_id: str, pipeline: Pipeline, parameters: Parameters, *, enable_caching: bool = True) -> None:
        """Start the pipeline once under this id; a known id is left as it is. Raises RunnerError."""

    def status(self, job_id: str) -> JobStatus | None:
        """None where no such job was ever submitted. Raises RunnerError."""

    def cancel(self, job_id: str) -> None:
        """Return once the job is terminal; a terminal or unknown job is left as it is. Raises RunnerError."""

    def active(self) -> list[str]:
        """The bandit's jobs that have not ended, whoever submitted them. Raises RunnerError."""

    def url(self, job_id: str) -> str:
        """Where a person looks at the run."""
