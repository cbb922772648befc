"""An Airflow that notices within seconds what died, and what is asked of it while things die."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from bandit_ops.runners.job_folder import MARK
from local_stack.airflow_api import AirflowApi
from local_stack.airflow_stack import AirflowStack
from local_stack.processes import command_line, with_descendants
from rl_core.errors import BanditError

QUICK = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "8",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "12",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
}
"""Airflow notices a dead worker within seconds instead of minutes."""
_PATIENCE_S = 60.0


def preload(folder: Path, *modules: str) -> None:
    """Let every Airflow that has `folder` on its PYTHONPATH import `modules` once, before it forks tasks.

    Else each task spends seconds of both cores on them, and the provider's operator more than Airflow allows.
    """
    lines = ["import contextlib", "with contextlib.suppress(ImportError):", *(f"    import {name}" for name in modules)]
    (folder / "airflow_local_settings.py").write_text("\n".join(lines) + "\n")


class PatientApi(AirflowApi):
    """Asks again while the API server is being restarted, and for one change at a time: changes in turn don't wait for
    each other's locks.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._one_change = threading.Lock()

    def request(self, method: str, path: str, **kwargs: Any) -> Any:
        change, asked = method != "GET", False
        deadline = time.monotonic() + _PATIENCE_S
        with self._one_change if change else contextlib.nullcontext():
            while True:
                try:
                    return super().request(method, path, **kwargs)
                except httpx.TransportError:
                    if time.monotonic() > deadline:
                        raise
                    asked = True
                except BanditError as error:
                    if asked and change and "answered 409" in str(error):
                        return None  # the first time was heard
                    raise
                time.sleep(0.5)


def worker_of(stack: AirflowStack, ti_id: str) -> psutil.Process | None:
    """The executor's process whose title names the task instance; `ti_id` as the API has it, or as SQLite keeps it."""
    ti_id = str(UUID(ti_id))
    for process in stack.processes():
        title = command_line(process)
        if "LocalExecutor" in title and ti_id in title:
            return process
    return None


def running_worker(stack: AirflowStack, ti_id: str) -> psutil.Process | None:
    """The same, once it has reported the task as running."""
    query = "select state from task_instance where replace(cast(id as varchar), '-', '') = :id"
    found = select(stack, query, id=UUID(ti_id).hex)
    return worker_of(stack, ti_id) if found == [("running",)] else None


def select(stack: AirflowStack, query: str, **values: object) -> list[tuple[Any, ...]]:
    """Rows of Airflow's own tables. Raises SQLAlchemyError where its database does not answer."""
    with create_engine(stack.database_url(), poolclass=NullPool).connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


def kill_worker(worker: psutil.Process, *, task_only: bool = False) -> None:
    """SIGKILL to the task's process, and to the worker above it unless `task_only`. A pipeline job lives on."""
    for process in with_descendants(worker)[: -1 if task_only else None]:
        with contextlib.suppress(psutil.Error):
            if MARK not in process.environ():
                process.kill()
