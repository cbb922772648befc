"""What a bandit's DAGs tell other DAGs, on a real Airflow: a new champion starts those that wait for one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rl_core.backends.registry.state import RegistryState

if TYPE_CHECKING:
    from tests.faults.conftest import World

pytestmark = [pytest.mark.airflow, pytest.mark.long]

TRAININGS, ONLOOKER = ("toy_first", "toy_second"), "toy_onlooker"


class Learning:
    """The two trainings of the toy bandit, and the one who looks on."""

    def __init__(self, world: World) -> None:
        self.world, self.api = world, world.stack.api

    def holder(self) -> str | None:
        lease = self._registry().lease
        return lease.holder if lease else None

    def lease_ends_at(self) -> float:
        lease = self._registry().lease
        return lease.until.timestamp() if lease else 0.0

    def until_task(self, dag_id: str, run_id: str, task: str, state: str) -> None:
        self.world.until(lambda: self.api.task_states(dag_id, run_id)[task] == state, f"{task} to be {state}")

    def end_of(self, dag_id: str, run_id: str) -> str:
        """The final state of the run, looking all the while that no two jobs of the bandit may promote."""
        runner = self.world.runner

        def ended() -> str | None:
            found = {job: runner.status(job) for job in runner.active()}
            live = [job for job, status in found.items() if status and not status.decided]
            assert len(live) <= 1, f"two live jobs: {live}"
            state = str(self.api.run(dag_id, run_id)["state"])
            return state if state in ("success", "failed") else None

        return self.world.until(ended, f"{run_id} of {dag_id} to end")

    def _registry(self) -> RegistryState:
        path = self.world.settings.state_dir(self.world.bandit) / "registry" / "registry.json"
        return RegistryState.parse(path.read_bytes(), path) if path.exists() else RegistryState()


@pytest.fixture
def learning(world: World) -> Iterator[Learning]:
    there = world.settings.home.parent / "dags" / "toy_learning.py"
    if not there.exists():
        shutil.copy(Path(__file__).with_name(there.name), there)
    world.stack.wait_for_dags([*TRAININGS, ONLOOKER], timeout_s=180)
    for dag_id in (*TRAININGS, ONLOOKER):
        world.stack.api.unpause(dag_id)
    yield Learning(world)
    for dag_id in TRAININGS:
        for run in world.stack.api.runs(dag_id):
            if run["state"] in ("queued", "running"):
                world.stack.api.set_run_state(dag_id, run["dag_run_id"], "failed")


def test_a_new_champion_starts_the_dags_that_wait_for_it(learning: Learning) -> None:
    seen = len(learning.api.runs(ONLOOKER))
    run_id = learning.api.trigger(TRAININGS[0])
    assert learning.end_of(TRAININGS[0], run_id) == "success"

    run = learning.world.until(lambda: learning.api.runs(ONLOOKER)[seen:], "a run that the asset triggered")[0]
    assert run["run_type"] == "asset_triggered"
    assert learning.api.wait_for_run(ONLOOKER, run["dag_run_id"], 60) == "success"
    assert learning.api.xcom(ONLOOKER, run["dag_run_id"], "note") == [{"version": "toy-v1-0001"}]


class TestTheLease:
    def test_keeps_two_trainings_of_one_bandit_apart(self, learning: Learning) -> None:
        learning.world.behave(trainer="hold")
        first = learning.api.trigger(TRAININGS[0])
        learning.until_task(TRAININGS[0], first, "train.wait", "running")
        second = learning.api.trigger(TRAININGS[1])
        learning.until_task(TRAININGS[1], second, "take_lease", "running")
        assert len(learning.world.runner.active()) == 1

        learning.world.behave()
        assert learning.end_of(TRAININGS[0], first) == "success"
        assert learning.end_of(TRAININGS[1], second) == "success"
        said = learning.api.log(TRAININGS[1], second, "take_lease")
        assert f"'{TRAININGS[0]}/{first}' holds the training lease" in said
        assert learning.holder() is None

    def test_is_renewed_while_the_job_runs_and_given_back_when_a_person_stops_it(self, learning: Learning) -> None:
        learning.world.behave(trainer="hold")
        run_id = learning.api.trigger(TRAININGS[0])
        learning.until_task(TRAININGS[0], run_id, "train.wait", "running")
        assert learning.holder() == f"{TRAININGS[0]}/{run_id}"
        ends_at = learning.lease_ends_at()
        learning.world.until(lambda: learning.lease_ends_at() > ends_at, "the lease to be renewed")

        learning.api.set_task_state(TRAININGS[0], run_id, "train.wait", "failed")
        assert learning.end_of(TRAININGS[0], run_id) == "failed"
        assert learning.world.runner.active() == []
        assert learning.holder() is None
