"""The README's first command, as a newcomer runs it, on synthetic data."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_stack.airflow_stack import AirflowStack
from local_stack.stack import Stack
from rl_core.config import Bandit, Settings
from stand_ins.free_port import free_port
from tests.harness.patience import patient, until

pytestmark = pytest.mark.process


def holds_together(report: dict[str, Any], retrains: int) -> None:
    """What is so of every demo: each policy trained on all of the log before it, and nothing of the log is lost."""
    rounds, rejected = report["rounds"], report["rejected"]
    assert report["data"] == "synthetic"
    assert len(rejected) <= 1, "two better policies look worse, by an interval of 95 %, in one of 500 demos"
    assert [one["trigger"] for one in rounds] == ["startup", *["sensor"] * (retrains - len(rejected))]
    windows = sorted(one["window"] for one in [*rounds, *rejected])
    assert windows[0] == [0, 200]
    assert all(later[0] == earlier[1] for earlier, later in itertools.pairwise(windows))
    last = rounds[-1]["window"][1]
    left_out = sum(high - low for low, high in (one["window"] for one in rejected) if high <= last)
    assert rounds[-1]["trained_interactions"] == last - left_out, "every interaction is in the last policy once"
    assert all(one["decisions_served"] >= 3000 for one in rounds[:-1])

    log = report["log"]
    assert log["decisions_acknowledged"] == log["decisions_in_store"]
    assert log["decisions_lost"] == log["duplicates"] == 0
    assert log["rewards_in_store"] == log["decisions_acknowledged"]
    assert log["reward_matches_user"] == 1.0


@pytest.mark.airflow
@pytest.mark.timeout(900)
def test_a_policy_is_born_and_learns_from_what_it_served(
    repo: Path, stack_env: dict[str, str], left_running: Callable[[], list[str]], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "local_stack", "demo", "--rounds", "1"]
    env = stack_env | {"PYTHONPATH": f"{repo}:{repo / 'plugins'}"}
    done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "home" / "demo" / "report.json").read_text())
    holds_together(report, retrains=1)
    if not report["rejected"]:
        born, learnt = report["rounds"]
        assert born["pct_of_gap_greedy"] < 85 < learnt["pct_of_gap_greedy"]
        assert learnt["mean_reward"] > born["mean_reward"]
    assert left_running() == []


@pytest.mark.long
@pytest.mark.airflow
@pytest.mark.timeout(1800)
def test_the_demo_closes_the_loop(
    repo: Path, stack_env: dict[str, str], left_running: Callable[[], list[str]], tmp_path: Path
) -> None:
    done = subprocess.run(["make", "demo"], cwd=repo, env=stack_env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "home" / "demo" / "report.json").read_text())
    holds_together(report, retrains=3)
    rounds = report["rounds"]
    assert rounds[0]["pct_of_gap_greedy"] < 85
    assert rounds[-1]["pct_of_gap_greedy"] >= 98
    assert rounds[-1]["pct_of_gap_served"] >= 90
    assert rounds[-2]["mean_reward"] > rounds[0]["mean_reward"]
    assert (tmp_path / "home" / "demo" / "report.png").stat().st_size > 10_000
    assert left_running() == []


@pytest.mark.long
@pytest.mark.airflow
@pytest.mark.timeout(900)
def test_after_ctrl_c_no_process_is_left(
    repo: Path, stack_env: dict[str, str], left_running: Callable[[], list[str]], tmp_path: Path
) -> None:
    log = tmp_path / "demo.log"
    with log.open("w") as out:
        demo = subprocess.Popen(
            [sys.executable, "-m", "local_stack", "demo"],
            cwd=repo,
            env=stack_env | {"PYTHONPATH": f"{repo}:{repo / 'plugins'}"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    runs = tmp_path / "home" / "demo" / "movielens-v1" / "runs"
    until(lambda: demo.poll() is not None or (runs.exists() and any(runs.iterdir())), "a pipeline job", 300)
    assert demo.poll() is None, log.read_text()
    assert len(left_running()) > 5, "a pipeline job, the services and Airflow are alive now"
    demo.send_signal(signal.SIGINT)
    time.sleep(0.5)
    demo.send_signal(signal.SIGINT)  # of somebody impatient
    assert demo.wait(patient(180)) == 130, log.read_text()
    assert left_running() == []


@pytest.mark.long
@pytest.mark.airflow
@pytest.mark.timeout(900)
def test_what_is_up_stays_up_until_down(
    repo: Path, stack_env: dict[str, str], left_running: Callable[[], list[str]], tmp_path: Path
) -> None:
    def stack(command: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "local_stack", command]
        env = stack_env | {"PYTHONPATH": f"{repo}:{repo / 'plugins'}"}
        return subprocess.run(program, cwd=repo, env=env, capture_output=True, text=True, check=False)

    try:
        up = stack("up")
        assert up.returncode == 0, up.stdout + up.stderr
        assert len(left_running()) > 5
        assert f"http://127.0.0.1:{stack_env['BANDIT_SERVER_PORT']}/docs" in up.stdout
        records = (tmp_path / "home" / "services-movielens-v1.json", tmp_path / "home" / "airflow" / "stack.json")
        before = [record.read_text() for record in records]
        again = stack("up")
        assert again.returncode == 0, again.stdout + again.stderr
        assert [record.read_text() for record in records] == before, "what runs stays as it is"
        refused = stack("clean")
        assert (refused.returncode, "make down" in refused.stdout) == (2, True), refused.stdout
        assert len(left_running()) >= 6, "a refused command stops nothing"
    finally:
        down = stack("down")
    assert down.returncode == 0
    assert left_running() == []
    assert stack("clean").returncode == 0
    assert not (tmp_path / "home").exists()


@pytest.mark.long
@pytest.mark.airflow
@pytest.mark.timeout(900)
def test_one_airflow_has_the_dags_of_all_bandits_and_of_one_that_comes_later(
    repo: Path, settings: Settings, tmp_path: Path, left_running: Callable[[], list[str]]
) -> None:
    dags = tmp_path / "dags"
    shutil.copytree(repo / "dags", dags)
    shipped = dags / "bandits" / "movielens.yaml"
    settings = settings.model_copy(update={"airflow_port": free_port(), "server_port": free_port()})

    def stack() -> Stack:
        bandits = {path: Bandit.from_yaml(path) for path in sorted((dags / "bandits").glob("*.yaml"))}
        return Stack(bandits, settings, AirflowStack(settings, dags=dags))

    first = stack()
    try:
        assert first.start(print) == []
        before = {process.pid for one in first.services for process in one.running().values()}
        said = yaml.safe_load(shipped.read_text()) | {"name": "later", "prefix": "later"}
        (dags / "bandits" / "later.yaml").write_text(yaml.safe_dump(said))
        second = stack()
        assert second.start(print) == []
        assert {"movielens_retrain", "later_retrain"} <= set(second.airflow.api.dags())
        after = {process.pid for one in second.services for process in one.running().values()}
        assert before < after
        assert len(after) == 4
    finally:
        Stack({}, settings).stop()
    assert left_running() == []


def test_a_busy_port_is_named(repo: Path, stack_env: dict[str, str]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", int(stack_env["BANDIT_SERVER_PORT"])))
        busy.listen()
        done = subprocess.run(
            [sys.executable, "-m", "local_stack", "demo"],
            cwd=repo,
            env=stack_env | {"PYTHONPATH": f"{repo}:{repo / 'plugins'}"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"port {stack_env['BANDIT_SERVER_PORT']}" in done.stdout
    assert "BANDIT_SERVER_PORT" in done.stdout


def test_a_broken_ratings_file_is_one_line_naming_file_and_line(
    repo: Path, stack_env: dict[str, str], tmp_path: Path
) -> None:
    broken = tmp_path / "u.data"
    broken.write_text("1\t2\t3\t874724710\n1\tnone\t3\t874724710\n")
    done = subprocess.run(
        [sys.executable, "-m", "local_stack", "demo"],
        cwd=repo,
        env=stack_env | {"PYTHONPATH": f"{repo}:{repo / 'plugins'}", "BANDIT_MOVIELENS_DIR": str(broken)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    errors = [line for line in done.stdout.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert f"{broken}: line 2: expected" in errors[0]
