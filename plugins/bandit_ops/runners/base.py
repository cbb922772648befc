"""The contract of a pipeline runner: what the three tasks submit, wait and cancel_if_active stand on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

Pipeline = Literal["startup", "retrain"]
Parameters = dict[str, str | int | float | bool]


class JobState(StrEnum):
    """The state of a job."""

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
    """The state of a job with the pipeline's `outputs` (small JSON values); `message` says why it failed.

    The outputs are there as soon as the steps that give them have ended; what comes after is not waited for.
    """

    state: JobState
    message: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def decided(self) -> bool:
        """Whether what becomes of the job no longer matters: it has ended, or its outputs are there."""
        return self.state.terminal or bool(self.outputs)


class PipelineRunner(Protocol):
    """Starts, watches and ends pipeline jobs. Any method may raise RunnerUnavailable: call it again later.

    Any other RunnerError stays what it is.
    """

    def submit(self, job_id: str, pipeline: Pipeline, parameters: Parameters, *, enable_caching: bool = True) -> None:
        """Start the pipeline once under this id; a known id is left as it is. Raises RunnerError."""

    def status(self, job_id: str) -> JobStatus | None:
        """Return the job's status; None where no such job was ever submitted. Raises RunnerError."""

    def cancel(self, job_id: str) -> None:
        """End the job; return once it is terminal. A terminal or unknown job is left as it is. Raises RunnerError."""

    def active(self) -> list[str]:
        """Return the bandit's jobs that have not ended, whoever submitted them. Raises RunnerError."""

    def url(self, job_id: str) -> str:
        """Return the address where a person looks at the run."""
