"""Startup and retrain with the real stages, in the processes that a run really has."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bandit_ops.runners.base import JobState, JobStatus, Parameters, Pipeline
from bandit_ops.runners.local import LocalRunner
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.movielens.synthetic import write_synthetic

pytestmark = [pytest.mark.tf, pytest.mark.long]


class Runs:
    """Jobs of the shipped bandit on synthetic ratings, one after another."""

    def __init__(self, bandit: Bandit, settings: Settings) -> None:
        self.bandit, self.settings = bandit, settings
        self.runner = LocalRunner(bandit, settings)

    def run(self, job_id: str, pipeline: Pipeline, **given: str | int | float | bool) -> JobStatus:
        who: Parameters = {"bandit": self.bandit.job_json(), "job_id": job_id, "champion": "", "full_retrain": False}
        agent: Parameters = {**self.bandit.agent.numbers}
        self.runner.submit(job_id, pipeline, who | agent | given)
        while not (status := self.runner.status(job_id)) or not status.state.terminal:
            time.sleep(0.1)
        return status

    def file(self, job_id: str, name: str) -> str:
        return (self.settings.state_dir(self.bandit) / "runs" / job_id / name).read_text()

    def cached(self, job_id: str) -> list[str]:
        return [step["step"] for step in json.loads(self.file(job_id, "steps.json")) if step["state"] == "SKIPPED"]


def measured(runs: Runs, job_id: str) -> dict[str, float]:
    """What TensorBoard shows of the run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(runs.settings.state_dir(runs.bandit) / "experiments" / job_id))
    log.Reload()
    return {tag: log.Scalars(tag)[-1].value for tag in log.Tags()["scalars"]}


@pytest.fixture
def runs(movielens: Bandit, settings: Settings, tmp_path: Path) -> Runs:
    ratings = tmp_path / "ratings"
    ratings.mkdir()
    write_synthetic(ratings / "u.data")
    return Runs(movielens, settings.model_copy(update={"movielens_dir": ratings}))


def test_a_bandit_is_born_is_refused_a_mixture_learns_on_and_a_repeated_run_trains_nothing(runs: Runs) -> None:
    born = runs.run("born", "startup", rounds=200, seed=1, trigger="startup")
    assert born.state is JobState.SUCCEEDED, runs.file("born", "log.txt")
    assert (born.outputs["version"], born.outputs["promoted"]) == ("movielens-v1-0001", True)
    registry, store = (
        open_backend(runs.bandit, runs.settings).registry(),
        open_backend(runs.bandit, runs.settings).store(),
    )
    assert registry.alias("champion") == "movielens-v1-0001"
    assert ([attempt.windows for attempt in registry.attempts()], store.head()) == ([((0, 200),)], 200)

    assert registry.exported("movielens-v1-0001") is not None
    assert measured(runs, "born")["promoted"] == 1.0
    assert measured(runs, "born")["challenger_dr"] > 0

    more: Parameters = {"rounds": 600, "seed": 2, "champion": "movielens-v1-0001", "trigger": "startup"}
    refused = runs.run("refused", "startup", **more, half_life=500.0)
    assert refused.state is JobState.FAILED
    assert refused.message.startswith("trainer: PolicyError: blocks of half_life 0.0 and 500.0 can't be added")
    assert store.head() == 800

    given: Parameters = {"windows": "[[0, 800]]", "champion": "movielens-v1-0001", "trigger": "manual"}
    again = runs.run("again", "retrain", **given, full_retrain=True)
    assert again.state is JobState.SUCCEEDED, runs.file("again", "log.txt")
    assert again.outputs["version"] == "movielens-v1-0002"
    repeated = runs.run("repeated", "retrain", **given, full_retrain=True)
    assert repeated.outputs["version"] == "movielens-v1-0002"
    assert runs.cached("repeated") == ["ingester", "trainer", "evaluator"]
