"""Pipeline runs without Airflow: a startup, a retrain, and the retrain again. `make bench` runs it.

Of the repeated retrain three steps come from the cache, so that it shows what a run costs beside its stages. Each line
names the seconds from submit to verdict; synthetic data, the shipped bandit.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from bandit_ops.runners.base import JobState, Parameters, Pipeline
from bandit_ops.runners.local import LocalRunner
from rl_core.config import Bandit, Settings
from rl_core.movielens.synthetic import write_synthetic

BANDIT = Path(__file__).parents[1] / "dags" / "bandits" / "movielens.yaml"
AGENT: Parameters = {"agent_alpha": 0.2, "tikhonov_weight": 0.01, "half_life": 0.0}
STARTUP: Parameters = {"rounds": 10_000, "seed": 1, "champion": "", "trigger": "startup", "full_retrain": False}
RETRAIN: Parameters = {
    "windows": "[[0, 10000]]",
    "champion": "movielens-v1-0001",
    "trigger": "manual",
    "full_retrain": True,
}


def seconds(runner: LocalRunner, job_id: str, pipeline: Pipeline, parameters: Parameters) -> float:
    begun = time.perf_counter()
    runner.submit(job_id, pipeline, parameters | {"job_id": job_id})
    while (status := runner.status(job_id)) is None or not status.state.terminal:
        time.sleep(0.02)
    if status.state is not JobState.SUCCEEDED:
        sys.exit(f"{job_id}: {status.message}")
    return time.perf_counter() - begun


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        ratings = Path(folder, "ratings")
        ratings.mkdir()
        write_synthetic(ratings / "u.data")
        bandit = Bandit.from_yaml(BANDIT)
        runner = LocalRunner(bandit, Settings(home=Path(folder, "home"), movielens_dir=ratings))
        common = AGENT | {"bandit": bandit.job_json()}
        print(f"{'startup, 10,000 rounds':45} {seconds(runner, 'startup', 'startup', common | STARTUP):6.1f} s")
        print(f"{'retrain of 10,000 interactions':45} {seconds(runner, 'retrain', 'retrain', common | RETRAIN):6.1f} s")
        print(f"{'the same again, from the cache':45} {seconds(runner, 'again', 'retrain', common | RETRAIN):6.1f} s")


if __name__ == "__main__":
    main()
