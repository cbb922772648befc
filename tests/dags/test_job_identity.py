"""The name of a job says whose it is, and from names alone a retry finds what its predecessor started."""

from __future__ import annotations

import re

import pytest

from bandit_ops.job_identity import JobIdentity, active_jobs, attempts, is_job_id
from bandit_ops.runners.base import JobState, JobStatus

WHO = ("movielens-v1", "movielens_retrain", "manual__2026-11-22T21:00:00+00:00", "train")
FIRST = JobIdentity.of(*WHO)


class Runner:
    """Remembers states by job id."""

    def __init__(self, **states: JobState) -> None:
        self.states = {f"{FIRST.scope}-{name.replace('_', '-')}": JobStatus(state) for name, state in states.items()}

    def status(self, job_id: str) -> JobStatus | None:
        return self.states.get(job_id)


class TestAJobId:
    def test_is_readable_and_fits_what_vertex_allows(self) -> None:
        assert re.fullmatch(r"movielens-v1-retrain-[0-9a-f]{12}-g0-a0", FIRST.job_id)
        longest = JobIdentity.of(f"{'p' * 40}-{'v' * 40}", "a" * 60 + "_" + "b" * 60, "run", "group")
        assert re.fullmatch(r"[a-z][-a-z0-9]{0,127}", JobIdentity(longest.scope, 99999, 99).job_id)

    def test_is_the_same_for_the_same_task_of_the_same_run(self) -> None:
        assert JobIdentity.of(*WHO) == FIRST

    @pytest.mark.parametrize("part", range(4))
    def test_is_another_for_another_bandit_dag_run_or_group(self, part: int) -> None:
        artefact, dag_id, run_id, group = (f"{word}x" if part == at else word for at, word in enumerate(WHO))
        assert JobIdentity.of(artefact, dag_id, run_id, group).job_id != FIRST.job_id

    def test_is_another_for_another_map_index(self) -> None:
        assert len({JobIdentity.of(*WHO, map_index=index).job_id for index in (-1, 0, 1)}) == 3

    def test_can_be_read_back(self) -> None:
        job = JobIdentity(FIRST.scope, 12, 3)
        assert JobIdentity.parse(job.job_id) == job

    @pytest.mark.parametrize("text", ["", "movielens", "../../etc/passwd-g0-a0", "Movie-g0-a0", "m-g0-a", "m-g-1-a0"])
    def test_of_another_form_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="not a job id"):
            JobIdentity.parse(text)
        assert not is_job_id(text)


class TestAttempts:
    def test_are_none_before_the_first_submit(self) -> None:
        assert attempts(Runner().status, FIRST) == []

    def test_are_found_up_to_the_first_unknown(self) -> None:
        runner = Runner(g0_a0=JobState.FAILED, g0_a1=JobState.RUNNING, g1_a0=JobState.PENDING)
        assert [(job.attempt, status.state) for job, status in attempts(runner.status, FIRST)] == [
            (0, JobState.FAILED),
            (1, JobState.RUNNING),
        ]

    def test_that_are_still_active_are_found_in_every_generation(self) -> None:
        runner = Runner(g0_a0=JobState.FAILED, g0_a1=JobState.RUNNING, g2_a0=JobState.PAUSED, g3_a0=JobState.SUCCEEDED)
        found = active_jobs(runner.status, FIRST, range(5))
        assert [job.job_id.removeprefix(f"{FIRST.scope}-") for job in found] == ["g0-a1", "g2-a0"]
