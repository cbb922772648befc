"""Finds the jobs of one run, as the tasks of its DAG ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandit_ops.job_identity import JobIdentity, attempts
from bandit_ops.runners.base import PipelineRunner
from bandit_ops.running import generation_of
from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import Context


def identity_of(bandit: Bandit, context: Context, group_id: str) -> JobIdentity:
    """Return the first job of the run's task group `group_id`."""
    ti = context["ti"]
    map_index = -1 if ti.map_index is None else ti.map_index
    return JobIdentity.of(bandit.id, ti.dag_id, ti.run_id, group_id, map_index)


def undecided_in_run(bandit: Bandit, context: Context, runner: PipelineRunner, group_id: str) -> list[JobIdentity]:
    """Return the run's jobs that may still change what serves, of every generation. Raises RunnerError."""
    first, generations = identity_of(bandit, context, group_id), range(generation_of(context) + 1)
    tried = (attempts(runner.status, first.of_generation(generation)) for generation in generations)
    return [job for jobs in tried for job, status in jobs if not status.decided]


def group_of(task_id: str) -> str:
    """Return the task group that a task id names; empty outside any."""
    return task_id.rpartition(".")[0]
