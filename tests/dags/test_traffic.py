"""The simulated traffic of a run: in a process that finds rl_core by itself, and with users of the run's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from rl_core.config import Bandit, Settings
from rl_core.problem_config import Problem

if TYPE_CHECKING:
    from airflow.sdk import Context

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("airflow_home")]

SPY = """#!/bin/sh
echo "path=$PYTHONPATH home=$BANDIT_HOME args=$*"
echo "bandit=$BANDIT_DEFINITION"
exit ${SPY_STATUS:-0}
"""


@pytest.fixture
def said(movielens: Bandit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the child is started with: BANDIT_JOB_PYTHON is a program that says so."""
    from bandit_ops.traffic import SimulateTraffic

    spy = tmp_path / "spy"
    spy.write_text(SPY)
    spy.chmod(0o755)
    monkeypatch.setenv("BANDIT_JOB_PYTHON", str(spy))
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run(run_id: str, seed: int | None = None, bandit: Bandit = movielens) -> str:
        form = {"decisions": 10, "concurrency": 2, "seed": seed, "round": 0}
        ti = SimpleNamespace(dag_id="movielens_simulate", run_id=run_id)
        task = SimulateTraffic(task_id="simulate", bandit=bandit)
        task.execute(cast("Context", {"ti": ti, "params": form}))
        return capsys.readouterr().out

    return run


def seed_in(said: str) -> str:
    return said.partition("--seed ")[2].split()[0]


def test_the_child_finds_rl_core_and_the_settings_wherever_it_is_started(
    said: Any, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = said("manual__1", seed=3)
    assert f"path={repo} home={tmp_path / 'home'} args=-m rl_core simulate movielens " in line
    assert "--decisions 10 --concurrency 2 --seed 3 --round 0" in line


def test_the_child_is_told_the_whole_bandit_so_that_it_needs_no_yaml(said: Any, movielens: Bandit) -> None:
    told = said("manual__1").partition("bandit=")[2].splitlines()[0].partition(" [")[0]
    assert Bandit.from_json(told[: told.rindex("}") + 1]) == movielens


def test_the_child_of_a_bandit_of_ten_thousand_actions_starts(said: Any, movielens: Bandit) -> None:
    actions = [f"sku-{n:09d}" for n in range(10_000)]
    problem = Problem.model_validate(movielens.problem.model_dump() | {"actions": actions})
    told = said("manual__1", bandit=movielens.model_copy(update={"problem": problem}))
    assert Bandit.from_json(told.partition("bandit=")[2].split()[0]).problem == problem


def test_where_a_wheel_is_installed_the_child_has_its_own(
    said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path to Airflow's packages would give the child those instead of what BANDIT_JOB_PYTHON was installed with."""
    from bandit_ops.runners import spec

    (tmp_path / "banditloop-0.2.0.dist-info").mkdir()
    monkeypatch.setattr(spec, "ROOT", tmp_path)
    assert "path= home=" in said("manual__1")


def test_every_run_sends_users_in_an_order_of_its_own(said: Any) -> None:
    seeds = {seed_in(said(f"scheduled__2026-11-22T{hour:02}:00:00+00:00")) for hour in range(5)}
    assert len(seeds) == 5
    assert all(0 <= int(seed) < 2**31 for seed in seeds)


def test_a_run_that_is_repeated_sends_the_same(said: Any) -> None:
    assert seed_in(said("scheduled__1")) == seed_in(said("scheduled__1"))


def test_a_seed_of_the_form_counts(said: Any) -> None:
    assert seed_in(said("scheduled__1", seed=0)) == "0"


def test_a_child_that_fails_fails_the_task(said: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.sdk.exceptions import AirflowException

    monkeypatch.setenv("SPY_STATUS", "2")
    with pytest.raises(AirflowException, match="ended with 2"):
        said("manual__1")


def test_the_form_takes_a_seed_or_none(movielens: Bandit) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    from bandit_ops.params import simulate_params

    seed = simulate_params(movielens)["seed"]
    assert seed.resolve() is None
    assert seed.resolve(7) == 7
    with pytest.raises(ParamValidationError):
        seed.resolve(-1)


class TestOnGoogleCloud:
    """The DAG's task only asks; the function sends."""

    @pytest.fixture
    def asked(
        self, google_connection: None, cloud_movielens: Bandit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[[], list[Any]]]:
        """Runs the task, and tells what the simulate topic has got."""
        from google.pubsub_v1.types import Subscription

        from bandit_ops.traffic import SimulateTraffic
        from rl_core.google_cloud.clients import GoogleClients
        from stand_ins.pubsub import PubSubStandIn

        with PubSubStandIn(tmp_path / "pubsub") as pubsub:
            monkeypatch.setenv("BANDIT_PUBSUB_EMULATOR_HOST", pubsub.address)
            clients = GoogleClients(cloud_movielens, Settings.from_environment())
            clients.publisher.create_topic(name=clients.names.simulate_topic)
            subscription = "projects/test-project/subscriptions/asked"
            clients.subscriber.create_subscription(Subscription(name=subscription, topic=clients.names.simulate_topic))

            def ask() -> list[Any]:
                task = SimulateTraffic(task_id="simulate", bandit=cloud_movielens)
                form = {"decisions": 10, "concurrency": 2, "seed": None, "round": 0}
                ti = SimpleNamespace(dag_id="movielens_simulate", run_id="manual__1")
                task.execute(cast("Context", {"ti": ti, "params": form}))
                answer = clients.subscriber.pull(subscription=subscription, max_messages=10)
                return [json.loads(received.message.data) for received in answer.received_messages]

            yield ask
            clients.close()

    def test_the_function_is_asked_for_the_runs_own_users(self, asked: Callable[[], list[Any]]) -> None:
        from bandit_ops.traffic import seed_of
        from rl_core.simulation.request import TrafficRequest

        [request] = asked()
        seed = seed_of("movielens_simulate", "manual__1")
        assert request == {"decisions": 10, "concurrency": 2, "seed": seed, "round": 0}
        assert TrafficRequest.of(json.dumps(request).encode()).seed == seed
