"""Trainings without Airflow, for the short storm: the same plans, job ids and runner; a loop in place of the DAGs."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

from bandit_ops.job_identity import JobIdentity
from bandit_ops.plans import Circumstances, NothingToDo, Plan, retrain_plan
from bandit_ops.runners.base import JobState, JobStatus
from bandit_ops.runners.local import LocalRunner
from reliability.storm.quick_training import train_first
from reliability.storm.world import World
from rl_core.backends import open_backend
from rl_core.errors import BanditError, RunnerUnavailable
from rl_core.policy.windows import new_windows, total

TRIES = 3
_POLL_S = 0.1


class Trainings:
    """One after the other, each with up to TRIES attempts, as the DAG `…_retrain` has them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runner = LocalRunner(world.bandit, world.settings)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="trainings", daemon=True)
        self.runs: list[str] = []
        self.errors: list[str] = []
        self.last_try = False

    def start(self) -> None:
        """Return once the server has a first policy; go on with retrainings."""
        train_first(self._world.bandit, self._world.settings, self._world.folder / "first-policy")
        self._thread.start()

    def stop(self, timeout_s: float = 90) -> None:
        """Begin no more; return once the present one has ended."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def close(self) -> None:
        self._over.set()
        for job_id in self._runner.active():
            self._runner.cancel(job_id)

    def spared(self, job_id: str) -> bool:
        """Whether this job is the last try of its run: a fault there fails the run, as it should."""
        return self.last_try

    def _go_on(self) -> None:
        while not self._over.wait(_POLL_S):
            try:
                if self._enough():
                    self.runs.append(self._run())
            except BanditError as error:  # Airflow would try this task again
                self.errors.append(str(error))
                self._over.wait(1)

    def _enough(self) -> bool:
        bandit, settings = self._world.bandit, self._world.settings
        windows = new_windows(open_backend(bandit, settings).registry(), open_backend(bandit, settings).store().head())
        return total(windows) >= bandit.retrain.min_new_interactions

    def _run(self) -> str:
        try:
            plan = self._plan()
        except NothingToDo:
            return "skipped"
        job = JobIdentity.of(self._world.bandit.id, "storm_retrain", f"run {time.time()}", "train")
        for number in range(TRIES):
            self.last_try = number == TRIES - 1
            parameters = {**plan["parameters"], "bandit": self._world.bandit.job_json(), "job_id": job.job_id}
            self._submit(job.job_id, plan, parameters)
            status = self._wait(job.job_id)
            if status.state is JobState.SUCCEEDED:
                return "success"
            self.errors.append(f"{job.job_id}: {status.message}")
            job = job.next_attempt()
        return "failed"

    def _submit(self, job_id: str, plan: Plan, parameters: Any) -> None:
        """A killed starter is one that may pass: ask again, as a retry of the task would."""
        while True:
            try:
                self._runner.submit(job_id, plan["pipeline"], parameters, enable_caching=plan["enable_caching"])
                return
            except RunnerUnavailable as error:
                self.errors.append(str(error))
                time.sleep(1)

    def _wait(self, job_id: str) -> JobStatus:
        while True:
            with contextlib.suppress(RunnerUnavailable):
                status = self._runner.status(job_id)
                if status is not None and status.state.terminal:
                    return status
            time.sleep(_POLL_S)

    def _plan(self) -> Plan:
        bandit, settings = self._world.bandit, self._world.settings
        form = {**bandit.agent.numbers, "full_retrain": False, "enable_caching": True}
        at = Circumstances(
            bandit,
            form,
            open_backend(bandit, settings).registry(),
            open_backend(bandit, settings).store(),
            manual=False,
        )
        return retrain_plan(at)
