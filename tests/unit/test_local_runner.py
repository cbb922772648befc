"""The local runner's rules that need no pipeline run: names, parameters, interpreters, and the digest of the code."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from uuid import uuid4

import pytest

from bandit_ops.runners import get_runner, spec
from bandit_ops.runners.base import JobState, JobStatus, Parameters
from bandit_ops.runners.job_folder import JobFolder
from bandit_ops.runners.local import LocalRunner
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError, RunnerError

RETRAIN: Parameters = {
    "bandit": "{}",
    "windows": "[[0, 200]]",
    "champion": "",
    "full_retrain": False,
    "agent_alpha": 0.2,
    "tikhonov_weight": 0.01,
    "half_life": 0,
    "trigger": "manual",
    "job_id": "a0",
}


@pytest.fixture
def runner(movielens: Bandit, settings: Settings) -> LocalRunner:
    return LocalRunner(movielens, settings)


class TestAJobId:
    @pytest.mark.parametrize("job_id", ["", "A0", "1st", "a_0", "../a", "a" * 129, "a0\n"])
    def test_of_another_form_is_refused(self, runner: LocalRunner, job_id: str) -> None:
        with pytest.raises(RunnerError, match="must match"):
            runner.status(job_id)

    def test_that_nobody_submitted_is_unknown(self, runner: LocalRunner, settings: Settings) -> None:
        assert runner.status("a0") is None
        assert not settings.home.exists()

    def test_leads_to_the_folder_of_its_run(self, runner: LocalRunner, settings: Settings) -> None:
        assert runner.url("a0") == f"file://{settings.home.resolve()}/movielens-v1/runs/a0"


class TestParameters:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"epsilon": 0.1}, r"unknown \['epsilon'\]"),
            ({"windows": None}, r"parameter windows is a STRING, got None"),
            ({"full_retrain": "no"}, "full_retrain is a BOOLEAN, got 'no'"),
            ({"agent_alpha": True}, "agent_alpha is a NUMBER_DOUBLE, got True"),
        ],
    )
    def test_that_do_not_fit_are_refused_by_name(self, runner: LocalRunner, changed: Parameters, message: str) -> None:
        with pytest.raises(RunnerError, match=message):
            runner.submit("a0", "retrain", RETRAIN | changed)
        assert runner.status("a0") is None

    def test_that_no_step_could_take_are_refused_with_the_number_of_actions(
        self, movielens: Bandit, settings: Settings
    ) -> None:
        problem = movielens.problem.model_copy(update={"actions": tuple(uuid4().hex for _ in range(20_000))})
        many = movielens.model_copy(update={"problem": problem})
        runner = LocalRunner(many, settings)
        with pytest.raises(RunnerError, match=r"a step takes 120,000: with 20,000 actions, use fewer"):
            runner.submit("a0", "retrain", RETRAIN | {"bandit": many.job_json()})
        assert runner.status("a0") is None

    def test_that_are_missing_are_named(self, runner: LocalRunner) -> None:
        with pytest.raises(RunnerError, match=r"missing \['rounds', 'seed'\]"):
            runner.submit("a0", "startup", {name: RETRAIN[name] for name in RETRAIN if name != "windows"})

    def test_that_are_whole_numbers_become_floats_where_floats_are_declared(self) -> None:
        checked = spec.checked(spec.load(spec.ROOT, "retrain"), "retrain", RETRAIN)
        assert json.dumps(checked["half_life"]) == "0.0"


@pytest.mark.process
class TestTheJobsPython:
    @pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false", "/bin/true"])
    def test_that_can_not_run_pipelines_is_one_clear_error(
        self, movielens: Bandit, settings: Settings, python: str
    ) -> None:
        runner = LocalRunner(movielens, settings.model_copy(update={"job_python": python}))
        with pytest.raises(
            RunnerError, match=f"^BANDIT_JOB_PYTHON={python} can't run pipelines .*requirements/job.txt"
        ):
            runner.submit("a0", "retrain", RETRAIN)
        assert runner.status("a0") is None

    def test_is_quoted_with_its_last_words(self, movielens: Bandit, settings: Settings, tmp_path: Path) -> None:
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'kfp'\" >&2\nexit 1\n")
        python.chmod(0o755)
        runner = LocalRunner(movielens, settings.model_copy(update={"job_python": str(python)}))
        with pytest.raises(RunnerError, match="No module named 'kfp'"):
            runner.submit("a0", "retrain", RETRAIN)


class TestAJobFolder:
    def test_whose_lock_is_held_before_the_job_began_is_pending(self, tmp_path: Path) -> None:
        job = JobFolder(tmp_path)
        with job.locked():
            assert job.settle() == JobStatus(JobState.PENDING)
        assert job.settle() is None

    def test_that_is_only_looked_at_never_seems_held(self, tmp_path: Path) -> None:
        job = JobFolder(tmp_path)
        with job.locked(shared=True):
            assert job.settle() is None

    def test_with_a_live_process_runs(self, tmp_path: Path) -> None:
        job = JobFolder(tmp_path)
        (tmp_path / "state.json").write_text('{"state": "RUNNING", "message": "", "outputs": {}}')
        with job.locked():
            assert job.settle() == JobStatus(JobState.RUNNING)

    def test_whose_process_is_gone_gets_a_verdict_that_stays(self, tmp_path: Path) -> None:
        job = JobFolder(tmp_path)
        (tmp_path / "state.json").write_text('{"state": "RUNNING", "message": "", "outputs": {}}')
        dead = JobStatus(JobState.FAILED, "died without a verdict (killed?)")
        assert job.settle() == dead
        assert job.verdict() == dead

    def test_that_was_cancelled_before_it_began_never_begins(self, tmp_path: Path) -> None:
        job = JobFolder(tmp_path)
        job.ask_cancel()
        assert job.settle() == JobStatus(JobState.CANCELLED, "cancelled")

    def test_answers_fast_because_a_sensor_asks_often(self, tmp_path: Path) -> None:
        """Measured at 0.1 ms of the processor's time; asserted at fifty times that."""
        job = JobFolder(tmp_path)
        (tmp_path / "state.json").write_text('{"state": "RUNNING", "message": "", "outputs": {}}')
        taken = []
        with job.locked():
            for _ in range(100):
                began = time.thread_time()
                job.settle()
                taken.append(time.thread_time() - began)
        assert statistics.median(taken) < 0.005


class TestTheCodeDigest:
    def test_changes_with_code_its_place_and_the_lock_and_with_nothing_else(self, tmp_path: Path) -> None:
        for folder in ("rl_core/stages", "pipeline_defs", "requirements"):
            (tmp_path / folder).mkdir(parents=True)
        seen = [spec.code_digest(tmp_path)]
        for file in ("rl_core/stages/trainer.py", "pipeline_defs/learning.py", "requirements/job.txt"):
            (tmp_path / file).write_text("x = 1\n")
            seen.append(spec.code_digest(tmp_path))
        (tmp_path / "rl_core/stages/trainer.py").rename(tmp_path / "rl_core/stages/trainer2.py")
        seen.append(spec.code_digest(tmp_path))
        assert len(set(seen)) == 5
        (tmp_path / "rl_core" / "notes.txt").write_text("nothing a step executes")
        assert spec.code_digest(tmp_path) == seen[-1]


def test_the_runner_is_the_one_that_the_bandit_names(movielens: Bandit, settings: Settings) -> None:
    assert isinstance(get_runner(movielens, settings), LocalRunner)
    with pytest.raises(ConfigError, match="has no section google"):
        get_runner(movielens.model_copy(update={"runner": "vertex"}), settings)
