"""`dag.test()` of startup and retrain on small data: real registry, real log, real pipelines, real stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings

pytestmark = [pytest.mark.airflow, pytest.mark.long]

PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
from rl_core.config import Bandit, Settings
from rl_core.stages import generator
folder, bandit = sys.argv[1], Bandit.from_json(sys.argv[2])
DagBundlesManager().sync_bundles_to_db()
bag = DagBag(folder, bundle_path=folder, bundle_name="dags-folder")
sync_bag_to_db(bag, "dags-folder", None)
for noun in sys.argv[3:]:
    if noun == "traffic":
        generator.run(bandit, Settings.from_environment(), rounds=60, seed=2)
        continue
    run = bag.dags[f"{bandit.name}_{noun}"].test()
    states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
    print("RAN " + json.dumps({"noun": noun, "run": str(run.state), "tasks": states}))
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
    noun: str
    run: str
    tasks: dict[str, str]
    log: str


@pytest.fixture
def small(add_bandit: Callable[..., Path]) -> Bandit:
    startup, retrain = {"rounds": 60}, {"min_new_interactions": 50, "poke_interval_s": 1, "gate_timeout_s": 2}
    return Bandit.from_yaml(add_bandit("small", startup=startup, retrain=retrain))


@pytest.fixture
def run(dags_folder: Path, small: Bandit, repo: Path, tmp_path: Path) -> Callable[..., list[Ran]]:
    """Runs DAGs one after the other with `dag.test()`, in a process of their own as a worker's are."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(repo / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": f"{repo}{os.pathsep}{repo / 'plugins'}",
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def run_all(*nouns: str) -> list[Ran]:
        python("-m", "airflow", "db", "migrate")
        log, ran = "", []
        for line in python("-c", PROGRAM, str(dags_folder), small.job_json(), *nouns).splitlines():
            log += f"{line}\n"
            if line.startswith("RAN "):
                ran.append(Ran(**json.loads(line[4:]), log=log))
                log = ""
        return ran

    return run_all


def test_a_bandit_is_born_refuses_a_second_birth_and_learns_on(
    run: Callable[..., list[Ran]], small: Bandit, settings: Settings
) -> None:
    barren, born, again, waited, learnt = run("retrain", "startup", "startup", "retrain", "traffic", "retrain")

    assert set(barren.tasks.values()) == {"skipped"}
    assert "0 of 50 new interactions for the first policy after 2 s" in barren.log

    assert (born.run, born.tasks) == ("success", ALL_DONE)

    assert (again.run, again.tasks["take_lease"]) == ("failed", "failed")
    assert "small has a champion already (small-v1-0001), made by a startup or the first retrain" in again.log

    assert set(waited.tasks.values()) == {"skipped"}
    assert "0 of 50 new interactions after 2 s" in waited.log

    registry, store = open_backend(small, settings).registry(), open_backend(small, settings).store()
    first, second = registry.attempts()
    assert (first.windows, first.trigger, first.version) == (((0, 60),), "startup", "small-v1-0001")
    assert (second.windows, second.trigger) == (((60, 120),), "manual")
    assert store.head() == 120
    announced = "success" if second.verdict == "promoted" else "skipped"
    assert (learnt.run, learnt.tasks) == ("success", {"gate": "success", **ALL_DONE, "announce_champion": announced})


def test_the_first_retrain_makes_the_first_champion_and_startup_has_nothing_left_to_do(
    run: Callable[..., list[Ran]], small: Bandit, settings: Settings
) -> None:
    born, startup = run("traffic", "retrain", "startup")
    assert (born.run, born.tasks) == ("success", {"gate": "success", **ALL_DONE})
    [first] = open_backend(small, settings).registry().attempts()
    assert (first.windows, first.verdict, first.version) == (((0, 60),), "promoted", "small-v1-0001")
    assert "there is no champion yet" in first.reason
    assert (startup.run, startup.tasks["take_lease"]) == ("failed", "failed")
    assert "use small_retrain, or set replace_champion to start over" in startup.log
