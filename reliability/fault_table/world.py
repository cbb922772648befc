"""A real Airflow, the stand-in for Vertex AI, and the pipeline jobs between them, which run until they are released."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from bandit_ops.job_identity import JobIdentity
from bandit_ops.runners import spec as specs
from local_stack.airflow_stack import AirflowStack
from local_stack.processes import send, with_descendants
from reliability.quick_airflow import PatientApi, running_worker
from rl_core.errors import BanditError
from rl_core.waiting import wait_for
from stand_ins.faults import Fault, Faults
from stand_ins.vertex import VertexStandIn

T = TypeVar("T")
HERE = Path(__file__).parent
IMAGE = f"python-banditloop@sha256:{'0' * 64}"
CONNECTION = {
    "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(
        {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "test-project"}}
    )
}

OUR_MODULES = ("airflow.providers.google.common.hooks.base_google", "google.cloud.aiplatform_v1")
STOCK_MODULES = ("airflow.providers.google.cloud.operators.vertex_ai.pipeline_job", "google.cloud.storage")

TOY_BANDIT = {
    "pipe_version": "v1",
    "problem": {
        "observation_dim": 2,
        "observation_version": "o1",
        "actions": ["left", "right"],
        "action_set_version": "a1",
        "reward_min": 0,
        "reward_max": 1,
        "reward_default": 0,
    },
    "startup": {"source": "log"},
    "retrain": {"poke_interval_s": 2, "run_timeout_s": 600},
}
"""All but its name and where it runs."""

BANDIT = {
    **TOY_BANDIT,
    "name": "fault",
    "prefix": "fault",
    "backend": "gcp",
    "runner": "vertex",
    "google": {"project": "test-project", "region": "europe-west1", "image": IMAGE},
}


@dataclass(frozen=True)
class System:
    """What starts the pipeline: its DAG, the task that submits, the task that waits, and its state while it waits.

    `pipeline` begins the ids of its jobs. A run that has not ended `ends_within_s` after its jobs were released is
    taken for one that never ends: stock runs do that, ours must not, however slow the machine is.
    """

    name: str
    dag_id: str
    submit: str
    wait: str
    waiting: str
    pipeline: str
    ends_within_s: float = 75.0


OURS = System("ours", "fault_ours", "train.submit", "train.wait", "up_for_reschedule", "fault-v1", ends_within_s=300.0)
STOCK = System("stock", "fault_stock", "run", "run", "running", "stock")
DEFERRABLE = System("stock, deferrable", "fault_deferrable", "run", "run", "deferred", "deferrable")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        jobs: the states of every job that was created for it, in order.
        most_at_once: how many of them were live at the same time, at most.
        run: the state of the DAG run; "running" where it did not end in time.
        false_success: the run was a success at a moment when no job of it had succeeded.
    """

    jobs: tuple[str, ...]
    most_at_once: int
    run: str
    false_success: bool
    run_id: str

    @property
    def left_running(self) -> int:
        return sum(state not in ("SUCCEEDED", "FAILED", "CANCELLED") for state in self.jobs)


class FaultWorld:
    def __init__(self, stack: AirflowStack, stand_in: VertexStandIn, faults: Faults) -> None:
        self.stack, self.stand_in, self.faults = stack, stand_in, faults
        self.api = PatientApi(stack.url)

    def close(self) -> None:
        self.api.close()

    def begin(self, system: System, faults: Sequence[Fault] = ()) -> Run:
        """A new run, whose jobs stay RUNNING until they are released; `faults` happen to it alone."""
        run = Run(self, system)
        for fault in faults:
            self.faults.add(replace(fault, match=run.prefix))
        run.trigger()
        return run


class Run:
    """One run of a system's DAG, and its jobs. Of a stock system there is one at a time: its jobs tell no run."""

    def __init__(self, world: FaultWorld, system: System) -> None:
        self.world, self.system = world, system
        self.api, self.pipelines = world.api, world.stand_in.pipelines
        self.run_id = f"fault-{uuid.uuid4().hex[:12]}"
        scope = JobIdentity.of("fault-v1", system.dag_id, self.run_id, "train").scope
        self.prefix = scope if system is OURS else f"{system.pipeline}-"
        self._before = set(self.pipelines.created)
        self._most = 0

    def trigger(self) -> None:
        self.pipelines.script(self.prefix, ["RUNNING"])
        body: dict[str, object] = {"logical_date": None, "dag_run_id": self.run_id, "conf": {}}
        self.api.request("POST", f"/dags/{self.system.dag_id}/dagRuns", json=body)

    def jobs(self) -> dict[str, str]:
        """The state of each job of this run, in the order of their creation."""
        states = self.pipelines.states(self.prefix)
        return {job: states[job] for job in self.pipelines.created if job in states and job not in self._before}

    def live(self) -> list[str]:
        live = [job for job, state in self.jobs().items() if state not in ("SUCCEEDED", "FAILED", "CANCELLED")]
        self._most = max(self._most, len(live))
        return live

    def release(self) -> None:
        """From now on a job that is asked for succeeds; one that nobody asks for runs on, as an orphan does."""
        self.pipelines.script(self.prefix, ["RUNNING", "SUCCEEDED"])
        for job_id in self.live():
            self.pipelines.play(job_id, "RUNNING", "SUCCEEDED")

    def until(self, ask: Callable[[], T | None], what: str, timeout_s: float = 180) -> T:
        """Wait, counting live jobs all the while."""

        def asked() -> T | None:
            self.live()
            return ask()

        return wait_for(asked, timeout_s, f"{what}; jobs: {self.jobs()}", poll_s=0.4)

    def until_job(self) -> str:
        return self.until(lambda: next(iter(self.jobs()), None), "a job")

    def until_waiting(self) -> str:
        """The job, once somebody waits for it and has looked at it."""
        job_id = self.until_job()
        self.until(lambda: self.state(self.system.wait) == self.system.waiting, f"{self.system.wait} to wait")
        looks = self.looks()
        if self.system is not OURS:
            self.until(lambda: self.looks() > looks, "another look at the job")
        return job_id

    def looks(self) -> int:
        looks = dict(self.pipelines.looks)  # a copy: others look meanwhile
        return sum(looks.get(job_id, 0) for job_id in self.jobs())

    def state(self, task: str) -> str | None:
        return self.api.task_states(self.system.dag_id, self.run_id)[task]

    def tries(self, task: str) -> int:
        return int(self.api.tasks(self.system.dag_id, self.run_id)[task]["try_number"])

    def ended(self) -> str | None:
        state = str(self.api.run(self.system.dag_id, self.run_id)["state"])
        return state if state in ("success", "failed") else None

    def signal_worker(
        self, task: str, number: signal.Signals, *, with_task: bool, once: Callable[[], object] = lambda: True
    ) -> None:
        """Send a signal to the worker that runs the task, and to the task's own process below it, when `once` is so."""
        tasks = partial(self.api.tasks, self.system.dag_id, self.run_id)
        ti_id = self.until(lambda: tasks().get(task), f"{task} to be known")["id"]
        self.until(once, "the moment for it")
        worker = wait_for(lambda: running_worker(self.world.stack, ti_id), 180, f"a worker with {task}", poll_s=0.005)
        send(number, with_descendants(worker) if with_task else [worker])

    def end(self) -> Outcome:
        """Wait for the run's end, and then a little for what its tasks still clean up."""
        state, false_success = "running", False
        with contextlib.suppress(BanditError):
            state = self.until(self.ended, "the end", self.system.ends_within_s)
            false_success = state == "success" and "SUCCEEDED" not in self.jobs().values()
            self.until(lambda: not self.live(), "no live job", 30)
        outcome = Outcome(tuple(self.jobs().values()), self._most, state, false_success, self.run_id)
        if self.ended() is None:
            self.api.set_run_state(self.system.dag_id, self.run_id, "failed")
        self.world.faults.clear(self.prefix)
        for job_id in self.live():
            self.pipelines.play(job_id, "CANCELLED")
        return outcome


def add_our_dag(dags: Path, dag_id: str, bandit: Mapping[str, object]) -> None:
    """Our three tasks as a DAG of a bandit."""
    (dags / f"{dag_id}.json").write_text(json.dumps(bandit))
    shutil.copy(HERE / "dag_ours.py", dags / f"{dag_id}.py")


def install(dags: Path, stack: AirflowStack | None = None, *, stock: bool = False) -> list[str]:
    """Copy the DAGs into the folder; gives their ids. With a running Airflow, return once it runs them."""
    add_our_dag(dags, OURS.dag_id, BANDIT)
    dag_ids = [OURS.dag_id]
    if stock:
        for system in (STOCK, DEFERRABLE):
            spec = specs.load(specs.ROOT, "retrain")
            specs.fill(spec, system.pipeline, IMAGE, {})
            (dags / f"{system.dag_id}.json").write_text(json.dumps(spec))
        shutil.copy(HERE / "dag_stock.py", dags / "fault_stock.py")
        dag_ids += [STOCK.dag_id, DEFERRABLE.dag_id]
    if stack is not None:
        stack.wait_for_dags(dag_ids, timeout_s=120)
        for dag_id in dag_ids:
            stack.api.unpause(dag_id)
    return dag_ids
