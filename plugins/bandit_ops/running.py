"""Asks Airflow whether a task is still meant to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context


def meant_to_run(context: Context) -> bool:
    """False once a person marked or cleared the calling task; its process learns of it seconds later, by a signal."""
    ti = context["ti"]
    states = ti.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index)
    return "running" in states.get(ti.run_id, {}).values()
