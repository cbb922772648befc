"""Faults that happen to a pipeline run on a real Airflow: never two live jobs, never a lost one.

`end_of` and `until_job` look all the while that no two jobs of a run are live.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from bandit_ops.runners.base import JobState
from local_stack.processes import send
from tests.harness.patience import patient

if TYPE_CHECKING:
    from tests.faults.conftest import World

pytestmark = pytest.mark.airflow

RUNNING, SUCCEEDED = JobState.RUNNING, JobState.SUCCEEDED
FAILED, CANCELLED = JobState.FAILED, JobState.CANCELLED


@pytest.mark.long
def test_without_faults_a_run_is_one_job(world: World) -> None:
    run_id = world.trigger()
    assert world.end_of(run_id) == "success"
    assert world.jobs(run_id) == {"g0-a0": SUCCEEDED}
    report = world.stack.api.xcom(world.dag_id, run_id, "train.wait")
    assert report["outputs"] == {"version": "toy-v1-0001", "promoted": True, "reason": "no champion yet"}


class TestAKilledWorker:
    @pytest.mark.long
    def test_before_it_submitted_is_replaced_by_one_that_submits(self, world: World) -> None:
        with world.submit_held("before"):
            run_id = world.trigger()
            world.kill_worker(run_id, "train.submit", once=world.job_processes)
            send(signal.SIGKILL, world.job_processes())
        assert world.end_of(run_id) == "success"
        assert world.jobs(run_id) == {"g0-a0": SUCCEEDED}

    def test_after_it_submitted_is_replaced_by_one_that_attaches(self, world: World) -> None:
        world.behave(trainer="hold")
        with world.submit_held("after"):
            run_id = world.trigger()
            world.kill_worker(run_id, "train.submit", once=lambda: world.jobs(run_id))
        world.until_task(run_id, "train.submit", "success")
        world.behave()
        assert world.end_of(run_id) == "success"
        assert world.jobs(run_id) == {"g0-a0": SUCCEEDED}
        assert world.stack.api.tasks(world.dag_id, run_id)["train.submit"]["try_number"] > 1

    @pytest.mark.long
    def test_while_it_waits_is_replaced_by_one_that_waits(self, world: World) -> None:
        world.behave(trainer="hold")
        run_id = world.trigger()

        def retried() -> bool:
            return bool(world.stack.api.tasks(world.dag_id, run_id)["train.wait"]["try_number"] > 1)

        world.until_task(run_id, "train.wait", "running")
        world.kill_worker(run_id, "train.wait")
        world.until(retried, "a retry")
        world.until_task(run_id, "train.wait", "running")
        world.behave()
        assert world.end_of(run_id) == "success"
        assert world.jobs(run_id) == {"g0-a0": SUCCEEDED}


@pytest.mark.long
class TestAirflowGoneForAWhile:
    def test_because_it_was_killed_loses_nothing(self, world: World) -> None:
        world.behave(trainer="hold")
        run_id = world.trigger()
        world.until_job(run_id, "g0-a0", RUNNING)
        world.stack.kill()
        assert world.jobs(run_id) == {"g0-a0": RUNNING}
        world.stack.start(patient(180))
        world.behave()
        assert world.end_of(run_id) == "success"
        assert world.jobs(run_id) == {"g0-a0": SUCCEEDED}

    def test_because_it_was_stopped_finds_what_ended_meanwhile(self, world: World) -> None:
        world.behave(trainer="hold")
        run_id = world.trigger()
        world.until_task(run_id, "train.wait", "running")
        world.stack.stop(grace_s=3)
        world.behave()
        world.until_job(run_id, "g0-a0", SUCCEEDED)
        world.stack.start(patient(180))
        assert world.end_of(run_id) == "success"
        assert world.jobs(run_id) == {"g0-a0": SUCCEEDED}


class TestAFailingPipeline:
    def test_is_tried_again_under_the_next_attempt(self, world: World) -> None:
        world.behave(trainer="fail")
        run_id = world.trigger()
        world.until_job(run_id, "g0-a0", FAILED)
        world.behave()
        assert world.end_of(run_id) == "success"
        assert world.jobs(run_id) == {"g0-a0": FAILED, "g0-a1": SUCCEEDED}

    @pytest.mark.long
    def test_that_never_succeeds_fails_the_run_and_says_why(self, world: World) -> None:
        world.behave(trainer="fail")
        run_id = world.trigger()
        assert world.end_of(run_id) == "failed"
        assert world.jobs(run_id) == {"g0-a0": FAILED, "g0-a1": FAILED, "g0-a2": FAILED}
        assert "seq 5 is missing (gap)" in world.stack.api.log(world.dag_id, run_id, "train.wait")


class TestATaskThatAPersonMarksFailed:
    @pytest.fixture
    def waiting(self, world: World) -> str:
        """A run whose job is held and waited for."""
        world.behave(trainer="hold")
        run_id = world.trigger()
        world.until_task(run_id, "train.wait", "running")
        return run_id

    def test_takes_its_job_with_it(self, world: World, waiting: str) -> None:
        world.stack.api.set_task_state(world.dag_id, waiting, "train.wait", "failed")
        assert world.end_of(waiting) == "failed"
        assert world.jobs(waiting) == {"g0-a0": CANCELLED}

    @pytest.mark.long
    def test_as_a_whole_run_takes_its_job_with_it(self, world: World, waiting: str) -> None:
        def marked() -> bool:
            """A sensor that tells its own state at the same moment overwrites the mark: see `set_task_state`."""
            world.stack.api.set_run_state(world.dag_id, waiting, "failed")
            time.sleep(1)
            return world.stack.api.task_states(world.dag_id, waiting)["train.wait"] in ("failed", "skipped")

        world.until(marked, "the run's tasks to be marked")
        world.until_job(waiting, "g0-a0", CANCELLED)

    @pytest.mark.long
    def test_while_it_submits_leaves_no_job(self, world: World) -> None:
        world.behave(trainer="hold")
        with world.submit_held("after"):
            run_id = world.trigger()
            world.until_job(run_id, "g0-a0", RUNNING)
            world.until_task(run_id, "train.submit", "running")
            world.stack.api.set_task_state(world.dag_id, run_id, "train.submit", "failed")
        assert world.end_of(run_id) == "failed"
        world.until(world.idle, "the task's process to be gone")
        assert world.live(run_id) == []


class TestAClearedTask:
    def test_begins_a_new_generation_once_the_older_job_is_cancelled(self, world: World) -> None:
        world.behave(trainer="hold")
        run_id = world.trigger()
        world.until_task(run_id, "train.wait", "running")
        world.stack.api.clear(world.dag_id, run_id, ["train.submit"])
        world.until_job(run_id, "g1-a0", RUNNING)
        world.behave()
        assert world.end_of(run_id) == "success"
        assert world.jobs(run_id) == {"g0-a0": CANCELLED, "g1-a0": SUCCEEDED}

    @pytest.mark.long
    def test_that_had_succeeded_runs_again(self, world: World) -> None:
        run_id = world.trigger()
        assert world.end_of(run_id) == "success"
        world.stack.api.clear(world.dag_id, run_id, ["train.wait"])
        world.until_job(run_id, "g1-a0", SUCCEEDED)
        assert world.end_of(run_id) == "success"
        assert world.jobs(run_id) == {"g0-a0": SUCCEEDED, "g1-a0": SUCCEEDED}


@pytest.mark.long
def test_a_job_that_a_person_cancelled_is_not_started_again(world: World) -> None:
    world.behave(trainer="hold")
    run_id = world.trigger()
    world.until_task(run_id, "train.wait", "running")
    world.cancel_job(run_id, "g0-a0")
    assert world.end_of(run_id) == "failed"
    assert world.jobs(run_id) == {"g0-a0": CANCELLED}
