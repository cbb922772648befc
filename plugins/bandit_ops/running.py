"""What a task asks Airflow about its own run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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


def waited_s(context: Context) -> float:
    """Seconds since this try of a rescheduled sensor looked first; 0.0 in its first look."""
    first: datetime | None = context["ti"].get_first_reschedule_date(context)
    return 0.0 if first is None else (datetime.now(UTC) - first) / timedelta(seconds=1)
