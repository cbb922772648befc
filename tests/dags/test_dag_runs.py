"""`dag.test()` of startup and retrain on small data: real registry, real log, real pipelines, real stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rl_core.backends import open_registry, open_store
from rl_core.config import Bandit, Settings

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
folder, dag_id, conf = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
DagBundlesManager().sync_bundles_to_db()
bag = DagBag(folder, bundle_path=folder, bundle_name="dags-folder")
sync_bag_to_db(bag, "dags-folder", None)
run = bag.dags[dag_id].test(run_conf=conf)
states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
print("RESULT " + json.dumps({"run": str(run.state), "tasks": states}))
"""

GENERATE = """
import sys
from rl_core.config import Bandit, Settings
from rl_core.stages import generator
print(generator.run(Bandit.from_json(sys.argv[1]), Settings.from_environment(), rounds=60, seed=2))
"""

ALL_DONE = {
    "take_lease": "success",
    "train.submit": "success",
    "train.wait": "success",
    "train.cancel_if_active": "success",
    "announce_champion": "success",
    "release_lease": "success",
}


@dataclass(frozen=True)
class Ran:
    run: str
    tasks: dict[str, str]
    log: str


@dataclass(frozen=True)
class Rig:
    """Runs programs in fresh processes, as workers are: deltalake must not be inherited by a fork."""

    environment: dict[str, str]
    dags: Path
    bandit: Bandit

    def python(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def test(self, noun: str, **conf: Any) -> Ran:
        out = self.python("-c", PROGRAM, str(self.dags), f"{self.bandit.name}_{noun}", json.dumps(conf))
        result = json.loads(next(line for line in out.splitlines() if line.startswith("RESULT "))[7:])
        return Ran(result["run"], result["tasks"], out)


@pytest.fixture
def rig(dags_folder: Path, add_bandit: Callable[..., Path], repo: Path, tmp_path: Path) -> Rig:
    startup, retrain = {"rounds": 60}, {"min_new_interactions": 50, "poke_interval_s": 1, "gate_timeout_s": 2}
    bandit = Bandit.from_yaml(add_bandit("small", startup=startup, retrain=retrain))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(repo / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": f"{repo}{os.pathsep}{repo / 'plugins'}",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    made = Rig(environment, dags_folder, bandit)
    made.python("-m", "airflow", "db", "migrate")
    return made


def test_a_bandit_is_born_refuses_a_second_birth_and_learns_on(rig: Rig, settings: Settings) -> None:
    barren = rig.test("retrain")
    assert barren.run == "success"
    assert set(barren.tasks.values()) == {"skipped"}
    assert "small has no champion yet" in barren.log

    born = rig.test("startup")
    assert (born.run, born.tasks) == ("success", ALL_DONE)
    registry, store = open_registry(rig.bandit, settings), open_store(rig.bandit, settings)
    assert registry.alias("champion") == "small-v1-0001"
    assert registry.last_attempted_seq() == store.head() == 60

    again = rig.test("startup")
    assert again.run == "failed"
    assert again.tasks["take_lease"] == "failed"
    assert "small has a champion already (small-v1-0001), startup runs once" in again.log

    waited = rig.test("retrain")
    assert set(waited.tasks.values()) == {"skipped"}
    assert "0 of 50 new interactions" in waited.log

    rig.python("-c", GENERATE, rig.bandit.job_json())
    learnt = rig.test("retrain")
    assert learnt.run == "success"
    assert {**learnt.tasks, "announce_champion": "success"} == {"gate": "success", **ALL_DONE}
    attempt = registry.attempts()[-1]
    assert (attempt.windows, attempt.trigger) == (((60, 120),), "manual")
    assert learnt.tasks["announce_champion"] == ("success" if attempt.verdict == "promoted" else "skipped")
