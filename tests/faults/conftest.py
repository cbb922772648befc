"""One real Airflow for all fault tests: real scheduler, workers, pipelines and runner; only the stages do nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
import pytest

from bandit_ops.job_identity import JobIdentity
from bandit_ops.runners.base import JobState
from bandit_ops.runners.job_folder import MARK
from bandit_ops.runners.local import LocalRunner
from local_stack.airflow_stack import AirflowStack
from local_stack.processes import command_line, living_with, send
from reliability.fault_table.world import (
    CONNECTION,
    OUR_MODULES,
    TOY_BANDIT,
    FaultWorld,
    add_our_dag,
    install,
)
from reliability.quick_airflow import QUICK, kill_worker, preload, running_worker
from rl_core.config import Bandit, Settings
from rl_core.waiting import wait_for
from stand_ins.faults import Faults
from stand_ins.free_port import free_port
from stand_ins.vertex import VertexStandIn
from tests.harness.patience import patient

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
STAGES = ("generator", "ingester", "trainer", "evaluator", "deployer", "exporter")
DAG_ID = "toy_faults"

PATIENT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
}
"""So that what stands still on a slow machine is not taken for dead: longer than `test_locked_database` locks."""
BANDIT = {**TOY_BANDIT, "name": "toy", "prefix": "toy"}


@dataclass
class World:
    """A running Airflow, the toy bandit's runs, and what tests ask of them."""

    stack: AirflowStack
    settings: Settings
    bandit: Bandit
    dag_id: str = DAG_ID

    @property
    def runner(self) -> LocalRunner:
        return LocalRunner(self.bandit, self.settings)

    def behave(self, **stages: str) -> None:
        """How stages behave from now on: hold (until told otherwise) or fail; others do their nothing well."""
        new = self.settings.home / "behaviour.new"
        new.write_text(json.dumps(stages))
        new.replace(self.settings.home / "behaviour.json")

    def trigger(self, **conf: Any) -> str:
        return self.stack.api.trigger(DAG_ID, conf)

    def jobs(self, run_id: str) -> dict[str, JobState]:
        """The state of every job of a run, by `g<generation>-a<attempt>`, oldest first."""
        scope = self._scope(run_id)
        folder = self.settings.state_dir(self.bandit) / "runs"
        found = {}
        for path in sorted(folder.glob(f"{scope}-*")):
            status = self.runner.status(path.name)
            if status is not None:
                found[path.name.removeprefix(f"{scope}-")] = status.state
        return found

    def cancel_job(self, run_id: str, name: str) -> None:
        """As a person would, in the runner's own console."""
        self.runner.cancel(f"{self._scope(run_id)}-{name}")

    def _scope(self, run_id: str) -> str:
        return JobIdentity.of(self.bandit.id, DAG_ID, run_id, "train").scope

    def live(self, run_id: str) -> list[str]:
        return [name for name, state in self.jobs(run_id).items() if not state.terminal]

    def until(self, ask: Callable[[], T | None], what: str, timeout_s: float = 180) -> T:
        return wait_for(ask, patient(timeout_s), what, poll_s=0.1)

    def until_job(self, run_id: str, name: str, state: JobState, timeout_s: float = 180) -> None:
        """Wait for a job's state, looking all the while that no two jobs of the run are live."""

        def reached() -> bool:
            assert len(self.live(run_id)) <= 1, f"two live jobs: {self.jobs(run_id)}"
            return self.jobs(run_id).get(name) is state

        self.until(reached, f"{name} to be {state}; there are {self.jobs(run_id)}", timeout_s)

    def until_task(self, run_id: str, task: str, *states: str, timeout_s: float = 180) -> str:
        def reached() -> str | None:
            state = self.stack.api.task_states(DAG_ID, run_id)[task]
            return state if state in states else None

        return self.until(reached, f"{task} of {run_id} to be {' or '.join(states)}", timeout_s)

    def end_of(self, run_id: str, timeout_s: float = 180) -> str:
        """The final state of the run, once its job has ended too (nobody waits for its exporter).

        Looks all the while that no two of its jobs are live.
        """

        def ended() -> str | None:
            live = self.live(run_id)
            assert len(live) <= 1, f"two live jobs: {self.jobs(run_id)}"
            state = str(self.stack.api.run(DAG_ID, run_id)["state"])
            return state if state in ("success", "failed") and not live else None

        return self.until(ended, f"{run_id} to end", timeout_s)

    def kill_worker(self, run_id: str, task: str, once: Callable[[], object] = lambda: True) -> psutil.Process:
        """SIGKILL, when `once` is so, to the worker that runs this task and the task below it, as when memory runs out.

        Waits until the worker has reported the task as running: before that the task is only queued, and LocalExecutor,
        unlike Celery's, never takes a queued task back (it has no `revoke_task`).
        """
        ti_id = self.until(lambda: self.stack.api.tasks(DAG_ID, run_id).get(task), f"{task} to be known")["id"]
        self.until(once, "the moment for it")
        worker = wait_for(
            lambda: running_worker(self.stack, ti_id), patient(180), f"a worker with {task}", poll_s=0.005
        )
        kill_worker(worker)
        return worker

    @contextlib.contextmanager
    def submit_held(self, moment: Literal["before", "after"]) -> Iterator[None]:
        """Whoever submits meanwhile stands still right before the job's process begins, or after it has detached."""
        hold = self.settings.home / f"hold-{moment}"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def idle(self) -> bool:
        """Whether no worker runs a task."""
        titles = [command_line(process) for process in self.stack.processes()]
        return all("<idle>" in title for title in titles if "LocalExecutor" in title)

    def job_processes(self) -> list[psutil.Process]:
        return living_with(MARK, str(self.settings.home))


def make_held_python(path: Path) -> Path:
    """A BANDIT_JOB_PYTHON for `World.submit_held`: a moment that lasts milliseconds can't be met by looking for it."""
    wait = 'while [ -e "$BANDIT_HOME/hold-{}" ]; do sleep 0.05; done'
    lines = (wait.format("before"), f'{sys.executable} "$@"', "ended=$?", wait.format("after"), "exit $ended")
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def make_root(folder: Path) -> Path:
    """The real rl_core and pipeline_defs over stages that do nothing."""
    ignored = shutil.ignore_patterns("__pycache__", "stages", "serving")
    shutil.copytree(REPOSITORY / "rl_core", folder / "rl_core", ignore=ignored)
    shutil.copytree(
        REPOSITORY / "pipeline_defs", folder / "pipeline_defs", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "rl_core" / "stages").mkdir()
    for stage in STAGES:
        shutil.copy(Path(__file__).with_name("held_stage.py"), folder / "rl_core" / "stages" / f"{stage}.py")
    return folder


@pytest.fixture(scope="package")
def vertex_faults() -> Faults:
    return Faults()


@pytest.fixture(scope="package")
def vertex_stand_in(tmp_path_factory: pytest.TempPathFactory, vertex_faults: Faults) -> Iterator[VertexStandIn]:
    """While it is there, the clients of this process and of its children are led to it."""
    with VertexStandIn(tmp_path_factory.mktemp("vertex"), "europe-west1", vertex_faults) as stand_in:
        yield stand_in


@pytest.fixture(scope="package")
def airflow_world(tmp_path_factory: pytest.TempPathFactory, vertex_stand_in: VertexStandIn) -> Iterator[World]:
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("faults")))
    dags = folder / "dags"
    dags.mkdir()
    add_our_dag(dags, DAG_ID, BANDIT)
    job_python = make_held_python(folder / "python")
    settings = Settings(home=folder / "home", airflow_port=free_port(), job_python=str(job_python))
    settings.home.mkdir()
    preload(make_root(folder / "code"), *OUR_MODULES)
    stack = AirflowStack(settings, dags=dags, root=folder / "code", options=QUICK | PATIENT | CONNECTION)
    world = World(stack, settings, Bandit.model_validate(BANDIT))
    try:
        stack.start(patient(180))
        stack.wait_for_dags([DAG_ID], patient(60))
        stack.api.unpause(DAG_ID)
        yield world
    finally:
        stack.stop(grace_s=3)
        stack.api.close()
        send(signal.SIGKILL, world.job_processes())


@pytest.fixture
def world(airflow_world: World) -> Iterator[World]:
    """The shared Airflow, running, with well-behaved stages; what a test leaves behind is ended."""
    airflow_world.behave()
    if not airflow_world.stack.running():
        airflow_world.stack.start(patient(180))
    yield airflow_world
    for run in airflow_world.stack.api.runs(DAG_ID):
        if run["state"] in ("queued", "running"):
            airflow_world.stack.api.set_run_state(DAG_ID, run["dag_run_id"], "failed")
    send(signal.SIGKILL, airflow_world.job_processes())


@pytest.fixture(scope="package")
def installed_on_vertex(
    airflow_world: World, vertex_stand_in: VertexStandIn, vertex_faults: Faults
) -> Iterator[FaultWorld]:
    install(airflow_world.settings.home.parent / "dags", airflow_world.stack)
    with contextlib.closing(FaultWorld(airflow_world.stack, vertex_stand_in, vertex_faults)) as world:
        yield world


@pytest.fixture
def vertex_world(airflow_world: World, installed_on_vertex: FaultWorld) -> FaultWorld:
    """The shared Airflow, running, with a DAG on Vertex AI."""
    if not airflow_world.stack.running():
        airflow_world.stack.start(patient(180))
    return installed_on_vertex
