"""What a task asks Airflow about its own run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context


def meant_to_run(context: Context) -> bool:
    """False once a person marked or cleared the calling task; its process learns of it seconds later, by a signal."""
    ti = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index)
    return "running" in states.get(ti.run_id, {}).values()


def is_manual(context: Context) -> bool:
    """Whether a person started the run."""
    return str(context["dag_run"].run_type).rpartition(".")[2].lower() == "manual"


def executors() -> set[str]:
    """Return the class names of Airflow's executors."""
    from airflow.sdk.configuration import conf

    return {name.strip().rpartition(".")[2] for name in conf.get("core", "executor", fallback="").split(",")}


def generation_of(context: Context) -> int:
    """How often a person has cleared tasks of the run; a retry doesn't count."""
    return context["dag_run"].clear_number or 0


def somebody_waits(context: Context) -> bool:
    """Whether another run of the DAG is queued behind this one, as one triggered by hand is: `max_active_runs` is 1."""
    ti = context["ti"]
    return ti.get_dr_count(dag_id=ti.dag_id, states=["queued"]) > 0
