"""A job lives once, ends with one verdict, and leaves no process: whatever is killed, and whenever."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from bandit_ops.runners.base import JobState, JobStatus
from rl_core.errors import RunnerUnavailable
from tests.harness.patience import patient
from tests.pipelines.conftest import sleeps

if TYPE_CHECKING:
    from tests.pipelines.conftest import World

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def stand_in_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("stand-in") / "code"
    shutil.copytree(root, copy)
    shutil.copy(Path(__file__).with_name("stand_in_job.py"), copy / "pipeline_defs" / "run_local.py")
    return copy


@pytest.fixture(params=["stand-in", pytest.param("kfp.local", marks=pytest.mark.long)])
def world(kfp_world: World, stand_in_root: Path, request: pytest.FixtureRequest) -> World:
    """For what is so whatever the job's process does: where locks, signals and verdicts are the point."""
    return replace(kfp_world, root=stand_in_root) if request.param == "stand-in" else kfp_world


def until_running(world: World, job_id: str, step: str) -> None:
    world.until(lambda: world.steps(job_id).get(step) == "RUNNING", f"{step} to run")


def until_the_sleeper_sleeps(world: World) -> None:
    world.until(lambda: any(map(sleeps, world.processes())), "the sleeper to sleep")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow, as where a quota is used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def unavailable(world: World, job_id: str) -> bool:
    try:
        world.runner.status(job_id)
    except RunnerUnavailable:
        return True
    return False


class TestAFailingStep:
    def test_is_a_failed_job_with_the_line_of_its_error(self, kfp_world: World) -> None:
        kfp_world.behave(trainer="fail")
        message = "trainer: StoreError: seq 5 is missing (gap); run the joiner first"
        assert kfp_world.run("a0") == JobStatus(JobState.FAILED, message)
        assert kfp_world.steps("a0") == {"ingester": "SUCCEEDED", "trainer": "FAILED"}
        assert message in kfp_world.log("a0").splitlines()[-1]

    def test_that_raises_nothing_is_told_by_its_last_words(self, kfp_world: World) -> None:
        kfp_world.behave(ingester="fail oddly")
        assert kfp_world.run("a0") == JobStatus(JobState.FAILED, "ingester: last words of a library")

    def test_leaves_the_next_attempt_free(self, world: World) -> None:
        world.behave(deployer="fail")
        assert world.run("a0").state is JobState.FAILED
        world.behave()
        assert world.run("a1").state is JobState.SUCCEEDED


class TestTheOutputs:
    """`wait` has them while the exporter works, and whatever becomes of that."""

    DEPLOYED: ClassVar = {"version": "toy-v1-0001", "promoted": True, "reason": "no champion yet"}

    def test_are_told_once_the_deployer_has_ended_and_outlive_the_job(self, kfp_world: World) -> None:
        kfp_world.behave(exporter="hang")
        kfp_world.submit("a0")
        until_the_sleeper_sleeps(kfp_world)
        assert kfp_world.runner.status("a0") == JobStatus(JobState.RUNNING, "", self.DEPLOYED)
        kfp_world.leader("a0").kill()
        assert kfp_world.wait("a0") == JobStatus(JobState.FAILED, "died without a verdict (killed?)", self.DEPLOYED)

    def test_stand_beside_the_error_of_an_export_and_the_next_attempt_only_deploys_and_exports(
        self, kfp_world: World
    ) -> None:
        kfp_world.behave(exporter="fail")
        message = "exporter: StoreError: seq 5 is missing (gap); run the joiner first"
        assert kfp_world.run("a0") == JobStatus(JobState.FAILED, message, self.DEPLOYED)
        kfp_world.behave()
        assert kfp_world.run("a1") == JobStatus(JobState.SUCCEEDED, "", self.DEPLOYED)
        assert kfp_world.calls()[5:] == ["deployer", "exporter"]


class TestAJobThatCantStartThisTime:
    def test_because_it_was_killed_while_it_started_starts_when_asked_again(self, world: World, tmp_path: Path) -> None:
        killed = tmp_path / "python"
        killed.write_text("#!/bin/sh\nkill -9 $$\n")
        killed.chmod(0o755)
        beset = replace(world, settings=world.settings.model_copy(update={"job_python": str(killed)}))
        with pytest.raises(RunnerUnavailable, match="killed by signal 9 while it started"):
            beset.submit("a0")
        assert world.runner.status("a0") is None
        assert world.run("a0").state is JobState.SUCCEEDED

    def test_because_the_disk_is_full_starts_when_asked_again(self, world: World) -> None:
        with full_disk(), pytest.raises(RunnerUnavailable, match="File too large; asking again"):
            world.submit("a0")
        assert world.run("a0").state is JobState.SUCCEEDED


def test_a_job_that_dies_while_the_disk_is_full_gets_its_verdict_when_there_is_room(world: World) -> None:
    world.behave(trainer="hang")
    world.submit("a0")
    until_running(world, "a0", "trainer")
    world.leader("a0").kill()
    with full_disk():
        world.until(lambda: unavailable(world, "a0"))
    assert world.wait("a0").state is JobState.FAILED
    assert world.processes() == []


class TestTheExperimentLog:
    @pytest.mark.tf
    def test_holds_every_run_and_how_it_ended(self, kfp_world: World) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams import api_pb2, metadata

        for job_id, behaviour in {"bad": {"trainer": "fail"}, "good": {}}.items():
            kfp_world.behave(**behaviour)
            kfp_world.run(job_id)
        status = {}
        for run in (kfp_world.settings.state_dir(kfp_world.bandit) / "experiments").iterdir():
            log = EventAccumulator(str(run))
            log.Reload()
            content = log.PluginTagToContent("hparams")
            start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
            assert start.hparams["agent_alpha"].number_value == 0.2
            ended = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
            status[run.name] = api_pb2.Status.Name(ended.status)
        assert status == {"good": "STATUS_SUCCESS", "bad": "STATUS_FAILURE"}


class TestAKilledJob:
    def test_is_failed_once_its_process_is_killed_and_its_steps_are_gone(self, world: World) -> None:
        world.behave(trainer="hang")
        world.submit("a0")
        until_the_sleeper_sleeps(world)
        world.leader("a0").kill()
        assert world.wait("a0") == JobStatus(JobState.FAILED, "died without a verdict (killed?)")
        assert world.processes() == []
        assert world.steps("a0") == {"ingester": "SUCCEEDED", "trainer": "FAILED"}

    def test_with_its_whole_group_is_failed_and_the_next_attempt_runs(self, world: World) -> None:
        world.behave(trainer="hang")
        world.submit("a0")
        until_the_sleeper_sleeps(world)
        os.killpg(world.leader("a0").pid, signal.SIGKILL)
        assert world.wait("a0").state is JobState.FAILED
        world.behave()
        assert world.run("a1").state is JobState.SUCCEEDED

    def test_stays_failed_and_is_not_started_again_under_its_id(self, world: World) -> None:
        world.behave(ingester="hang")
        world.submit("a0")
        until_the_sleeper_sleeps(world)
        world.leader("a0").kill()
        world.wait("a0")
        world.behave()
        world.submit("a0")
        assert world.runner.status("a0") == JobStatus(JobState.FAILED, "died without a verdict (killed?)")
        assert world.calls() == ["ingester"]


class TestCancel:
    @pytest.mark.parametrize("behaviour", ["hang", "hang deaf"])
    def test_ends_every_process_before_it_returns(self, world: World, behaviour: str) -> None:
        world.behave(trainer=behaviour)
        world.submit("a0")
        until_the_sleeper_sleeps(world)
        world.runner.cancel("a0")
        assert world.processes() == []
        assert world.runner.status("a0") == JobStatus(JobState.CANCELLED, "cancelled")
        assert world.steps("a0") == {"ingester": "SUCCEEDED", "trainer": "CANCELLED"}

    def test_leaves_a_job_that_has_ended_as_it_is(self, world: World) -> None:
        ended = world.run("a0")
        world.runner.cancel("a0")
        assert world.runner.status("a0") == ended

    def test_that_reaches_the_step_before_the_job_is_no_failure(self, kfp_world: World) -> None:
        kfp_world.behave(trainer="hang")
        kfp_world.submit("a0")
        until_the_sleeper_sleeps(kfp_world)
        (kfp_world.folder("a0") / "cancel").touch()
        next(filter(sleeps, kfp_world.processes())).terminate()
        assert kfp_world.wait("a0") == JobStatus(JobState.CANCELLED, "cancelled")

    def test_of_an_unknown_job_does_nothing(self, world: World) -> None:
        world.runner.cancel("never-heard-of")
        assert world.runner.status("never-heard-of") is None

    def test_from_two_sides_at_once_is_one_cancel(self, world: World, each_at_once: Callable[..., None]) -> None:
        world.behave(ingester="hang")
        world.submit("a0")
        until_running(world, "a0", "ingester")
        each_at_once(world.runner.cancel, "a0", "a0")
        assert world.runner.status("a0") == JobStatus(JobState.CANCELLED, "cancelled")

    def test_while_it_is_being_submitted_wins(self, world: World) -> None:
        submitter = world.submitter("a0")
        world.until(lambda: (world.folder("a0") / "job.json").exists())
        world.runner.cancel("a0")
        submitter.wait(patient(60))
        status = world.runner.status("a0")
        assert status is not None
        assert status.state is JobState.CANCELLED
        world.until(lambda: not world.processes())


class TestSubmit:
    def test_again_joins_the_job_that_runs(self, world: World) -> None:
        world.behave(ingester="slow")
        world.submit("a0")
        world.submit("a0")
        assert world.wait("a0").state is JobState.SUCCEEDED
        assert world.calls() == ["ingester", "trainer", "evaluator", "deployer", "exporter"]

    def test_from_several_processes_at_once_starts_one_job(self, world: World) -> None:
        world.behave(ingester="slow")
        submitters = [world.submitter("a0") for _ in range(4)]
        assert [submitter.wait(patient(60)) for submitter in submitters] == [0, 0, 0, 0]
        assert world.wait("a0").state is JobState.SUCCEEDED
        assert world.calls() == ["ingester", "trainer", "evaluator", "deployer", "exporter"]

    def test_returns_while_the_job_runs_and_the_job_outlives_the_submitter(self, world: World) -> None:
        world.behave(ingester="slow")
        submitter = world.submitter("a0")
        assert submitter.wait(patient(60)) == 0
        assert world.wait("a0").state is JobState.SUCCEEDED

    def test_killed_before_it_started_anything_leaves_an_unknown_job_that_can_be_submitted(self, world: World) -> None:
        die = "local.launch = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
        assert world.submitter("a0", die).wait(patient(60)) == -signal.SIGKILL
        assert (world.folder("a0") / "job.json").exists()
        assert world.runner.status("a0") is None
        assert world.run("a0").state is JobState.SUCCEEDED

    def test_killed_right_after_the_start_leaves_a_running_job(self, world: World) -> None:
        world.behave(ingester="slow")
        die = "launch = local.launch; local.launch = lambda *a: (launch(*a), os.kill(os.getpid(), signal.SIGKILL))"
        assert world.submitter("a0", die).wait(patient(60)) == -signal.SIGKILL
        world.submit("a0")
        assert world.wait("a0").state is JobState.SUCCEEDED
        assert world.calls() == ["ingester", "trainer", "evaluator", "deployer", "exporter"]

    def test_waiting_behind_a_submitter_that_dies_starts_the_job_itself(self, world: World) -> None:
        first = world.submitter("a0", "local.launch = lambda *_: time.sleep(300)")
        world.until(lambda: (world.folder("a0") / "job.json").exists())
        assert world.runner.status("a0") == JobStatus(JobState.PENDING)
        threading.Timer(1, first.kill).start()
        world.submit("a0")
        assert first.wait(patient(60)) == -signal.SIGKILL
        assert world.wait("a0").state is JobState.SUCCEEDED

    def test_lists_the_jobs_that_live(self, world: World) -> None:
        world.run("ended")
        world.behave(trainer="hang")
        world.submit("alive", agent_alpha=2.0)
        assert world.runner.active() == ["alive"]
        world.runner.cancel("alive")
        assert world.runner.active() == []


def test_a_home_with_a_space_and_the_word_python3_in_its_path_works(kfp_world: World, tmp_path: Path) -> None:
    home = tmp_path / "my python3 projects"
    home.mkdir()
    elsewhere = replace(kfp_world, settings=kfp_world.settings.model_copy(update={"home": home}))
    assert elsewhere.run("a0").state is JobState.SUCCEEDED


def test_steps_leave_no_temporary_files(kfp_world: World) -> None:
    kfp_world.run("a0")
    assert not (kfp_world.folder("a0") / "tmp").exists()
