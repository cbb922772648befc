"""A real Airflow for the storm: its scheduler and workers are killed, and started again as a service manager would."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass

import psutil

from local_stack.airflow_stack import REPO, AirflowStack
from reliability.quick_airflow import QUICK, PatientApi, preload, worker_of
from reliability.storm.world import World
from rl_core.errors import BanditError
from rl_core.waiting import wait_for

RETRIES = 2  # house_rules


@dataclass(frozen=True)
class Try:
    """One try of a task, by the worker that runs it."""

    dag_id: str
    run_id: str
    task_id: str
    number: int
    worker: psutil.Process


class Airflow:
    """The DAGs `storm_startup` and `storm_retrain`, as every bandit has them."""

    def __init__(self, world: World) -> None:
        self._world = world
        code = world.folder / "airflow-settings"
        code.mkdir()
        preload(code, "rl_core.config", "bandit_ops.pipeline_tasks")
        path = os.pathsep.join(map(str, (code, REPO, REPO / "plugins")))
        options = {**QUICK, "PYTHONPATH": path}
        self.stack = AirflowStack(world.settings, dags=world.folder / "dags", options=options)
        self.api = PatientApi(self.stack.url)
        name = world.bandit.name
        self._startup, self._retrain = f"{name}_startup", f"{name}_retrain"
        self.unpaused = 0

    def start(self) -> None:
        """Return once the first policy serves and the retrain DAG runs by itself."""
        self.stack.start()
        self.stack.wait_for_dags([self._startup, self._retrain])
        self.api.unpause(self._startup)
        run_id = self.api.trigger(self._startup)
        if (state := self.api.wait_for_run(self._startup, run_id)) != "success":
            raise BanditError(f"{self._startup} ended as {state}: {self.api.task_states(self._startup, run_id)}")
        self.api.unpause(self._retrain)

    def stop(self, timeout_s: float = 120) -> None:
        """Return once no training is on its way, and let none begin: a paused DAG's run would stand still."""
        with contextlib.suppress(BanditError):
            wait_for(lambda: not self._training(), timeout_s, f"the last training of {self._retrain}")
            self.api.pause(self._retrain)

    def close(self) -> None:
        self.stack.stop(grace_s=3)
        self.api.close()
        self.stack.api.close()

    def runs(self) -> Counter[str]:
        """How many runs of the retrain DAG ended in which state."""
        rows = self._select("select state, count(*) from dag_run where dag_id = ? group by state", self._retrain)
        return Counter(dict(rows))

    def keep_unpaused(self) -> None:
        """What an operator does after three failed runs in a row paused the DAG."""
        rows = self._select("select is_paused from dag where dag_id = ?", self._retrain)
        if rows and rows[0][0]:
            self.api.unpause(self._retrain)
            self.unpaused += 1

    def spared(self, job_id: str) -> bool:
        """Whether the job's run is in the last try of its `wait`: a fault there fails the run, as it should."""
        rows = self._select(
            "select t.try_number from task_instance t join dag_run r on t.dag_id = r.dag_id and t.run_id = r.run_id "
            "where t.dag_id = ? and t.task_id = 'train.wait' and r.state = 'running'",
            self._retrain,
        )
        return any(number > RETRIES for (number,) in rows)

    def running_try(self) -> Try | None:
        """A task that a worker runs now and that may still be tried again."""
        query = "select id, dag_id, run_id, task_id, try_number from task_instance where state = 'running'"
        for ti_id, dag_id, run_id, task_id, number in self._select(query):
            if number <= RETRIES:
                process = worker_of(self.stack, _hyphened(ti_id))
                if process is not None:
                    return Try(dag_id, run_id, task_id, number, process)
        return None

    def overcome(self, found: Try) -> bool:
        """Whether the task has been taken up again."""
        rows = self._select(
            "select state, try_number from task_instance where dag_id = ? and run_id = ? and task_id = ?",
            found.dag_id,
            found.run_id,
            found.task_id,
        )
        if not rows:
            return False
        state, number = rows[0]
        done = state in ("success", "skipped", "up_for_reschedule", "failed", "removed")
        return done or (number > found.number and state == "running")

    def kill_scheduler(self, workers_live_s: float) -> None:
        """SIGKILL, then a new one; as under systemd, workers that the old one left die before it starts."""
        self.stack.leader("scheduler").kill()
        time.sleep(workers_live_s)
        self.stack.restart("scheduler", timeout_s=60)

    def progress_since(self, at: float) -> bool:
        """Whether a scheduler that is alive has begun or ended a task since then."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at + 1))
        alive = self._select(
            "select 1 from job where job_type = 'SchedulerJob' and state = 'running' and latest_heartbeat > ? "
            "and start_date > ?",
            stamp,
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)),
        )
        moved = self._select("select 1 from task_instance where start_date > ? or end_date > ? limit 1", stamp, stamp)
        return bool(alive and moved)

    def _training(self) -> bool:
        """Whether a run is beyond its gate."""
        beyond = self._select(
            "select 1 from task_instance t join dag_run r on t.dag_id = r.dag_id and t.run_id = r.run_id "
            "where t.dag_id = ? and r.state = 'running' and t.task_id = 'gate' and t.state = 'success'",
            self._retrain,
        )
        return bool(beyond)

    def _select(self, query: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
        with contextlib.suppress(sqlite3.Error):
            path = f"file:{self.stack.home}/airflow.db?mode=ro"
            with contextlib.closing(sqlite3.connect(path, uri=True, timeout=5)) as database:
                return database.execute(query, values).fetchall()
        return []


def _hyphened(ti_id: str) -> str:
    """SQLite keeps the id as 32 hexadecimal digits; a worker's title has it as a UUID is written."""
    if "-" in ti_id:
        return ti_id
    return f"{ti_id[:8]}-{ti_id[8:12]}-{ti_id[12:16]}-{ti_id[16:20]}-{ti_id[20:]}"
