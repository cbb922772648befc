"""The name of a pipeline job, from which a retry finds what its predecessor started. Pure functions, no state.

A job id is `<prefix>-<version>-<dag>-<digest>-g<generation>-a<attempt>`. The digest stands for dag, run, task group and
map index. The generation is how often a person had cleared tasks of the run when the job was named; the attempt rises
when the job before it ended in failure.
Nothing is remembered between tries: whoever needs the current attempt asks the runner for attempt 0, 1, 2, … of the
generation until one is unknown, so a worker that dies at any point loses nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from bandit_ops.runners.base import JobStatus

_FORM = re.compile(r"^(?P<scope>[a-z][-a-z0-9]{0,111})-g(?P<generation>\d+)-a(?P<attempt>\d+)$")
StatusOf = Callable[[str], JobStatus | None]


def is_job_id(text: str) -> bool:
    """Whether a run of our DAGs named the job so; others may have started jobs of the bandit by hand."""
    return _FORM.match(text) is not None


@dataclass(frozen=True)
class JobIdentity:
    scope: str
    generation: int = 0
    attempt: int = 0

    @classmethod
    def of(cls, bandit_id: str, dag_id: str, run_id: str, group_id: str, map_index: int = -1) -> Self:
        """The first job of a pipeline's task group in one run."""
        unique = "\n".join((dag_id, run_id, group_id, str(map_index)))
        digest = hashlib.sha256(unique.encode()).hexdigest()[:12]
        words = re.sub(r"[^a-z0-9]+", "-", dag_id.lower().rpartition("_")[2]).strip("-")[:16] or "dag"
        return cls(f"{bandit_id}-{words}-{digest}")

    @classmethod
    def parse(cls, job_id: str) -> Self:
        """Raises ValueError where `job_id` is not of the form above."""
        match = _FORM.match(job_id)
        if match is None:
            raise ValueError(f"{job_id!r} is not a job id of the form <scope>-g<generation>-a<attempt>")
        return cls(match["scope"], int(match["generation"]), int(match["attempt"]))

    @property
    def job_id(self) -> str:
        return f"{self.scope}-g{self.generation}-a{self.attempt}"

    def next_attempt(self) -> Self:
        return replace(self, attempt=self.attempt + 1)

    def of_generation(self, generation: int) -> Self:
        return replace(self, generation=generation, attempt=0)


def attempts(status_of: StatusOf, first: JobIdentity) -> list[tuple[JobIdentity, JobStatus]]:
    """Every submitted attempt of one generation, in order, beginning at `first`."""
    found = []
    identity = first
    while (status := status_of(identity.job_id)) is not None:
        found.append((identity, status))
        identity = identity.next_attempt()
    return found


def active_jobs(status_of: StatusOf, scope: JobIdentity, generations: range) -> list[JobIdentity]:
    """The jobs of these generations that have not ended."""
    firsts = (scope.of_generation(generation) for generation in generations)
    return [job for first in firsts for job, status in attempts(status_of, first) if not status.state.terminal]
