"""From nothing to the first policy: no environment, no log, no startup; real server and logger, and no Airflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from bandit_ops.params import retrain_params
from bandit_ops.plans import Circumstances, NothingToDo, retrain_plan
from rl_core.backends import open_backend
from rl_core.config import Agent, Bandit, Settings
from rl_core.policy.artefact import Policy
from rl_core.stages import deployer, evaluator, ingester, trainer
from tests.harness.patience import patient, until

if TYPE_CHECKING:
    from rl_core.stages.deployer import Deployment
    from tests.e2e.conftest import Site

pytestmark = pytest.mark.tf

VISITS = 300
BEST = "movie-4"
"""The action that earns a reward, whoever asks."""


@pytest.fixture
def movielens(movielens: Bandit, monkeypatch: pytest.MonkeyPatch) -> Bandit:
    """Its problem, in a YAML that says nothing of an environment or a startup."""
    left = movielens.model_dump(mode="json", exclude={"environment", "startup", "simulate"})
    bare = Bandit.from_json(json.dumps(left))
    assert bare.startup.source == "log"
    monkeypatch.setenv("BANDIT_DEFINITION", bare.model_dump_json())
    return bare


def visit(site: Site, first: int, eligible: list[str] | None = None) -> list[dict[str, Any]]:
    """A hundred decisions with their rewards."""
    users = site.environment.observations_f32
    asked = {"eligible_actions": eligible} if eligible else {}
    instances = [
        {"observation": users[n % len(users)].tolist(), "event_id": f"visit-{n}", **asked}
        for n in range(first, first + 100)
    ]
    answer = site.post("/predict", {"instances": instances})
    assert answer.status_code == 200, answer.text
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    rewards = [{"event_id": one["event_id"], "reward": 5.0 * (one["action_id"] == BEST)} for one in predictions]
    assert site.post("/reward", {"rewards": rewards}).status_code == 200
    return predictions


def retrain(bandit: Bandit, settings: Settings, scratch: Path) -> Deployment:
    """What a run of the DAG plans with its form left alone, carried out stage by stage."""
    backend = open_backend(bandit, settings)
    form = {name: param.value for name, param in retrain_params(bandit).items()}
    plan = retrain_plan(Circumstances(bandit, form, backend.registry(), backend.store(), manual=False))
    given: dict[str, Any] = dict(plan["parameters"])
    champion, full = given["champion"] or None, given["full_retrain"]
    data, policy, verdict = (scratch / name for name in ("data", "policy", "verdict"))
    ingester.run(bandit, settings, [(low, high) for low, high in json.loads(given["windows"])], data)
    agent = Agent(**{name: given[name] for name in Agent().numbers})
    trainer.run(bandit, settings, data, champion, full, agent, policy)
    evaluator.run(bandit, settings, data, policy, champion, full, verdict)
    return deployer.run(bandit, settings, policy, verdict, champion, given["trigger"], "job-1")


def test_a_bandit_begins_with_nothing_and_its_first_retrain_makes_the_champion(
    site: Site, settings: Settings, tmp_path: Path
) -> None:
    server, bandit = site.serve(), site.bandit
    site.run("log")
    answers = [*visit(site, 0), *visit(site, 100), *visit(site, 200, eligible=[BEST, "movie-6", "movie-10"])]
    assert {one["policy_version"] for one in answers} == {"uniform"}
    assert {one["propensity"] for one in answers} == {1 / 20, 1 / 3}
    store = open_backend(bandit, settings).store()
    until(lambda: store.head() == VISITS, "the logger to close every decision")

    done = retrain(bandit, settings, tmp_path / "run")

    assert (done.version, done.promoted) == ("movielens-v1-0001", True)
    assert done.reason.startswith("there is no champion yet; the challenger is estimated ")
    assert "no prediction server runs" not in done.reason
    [attempt] = open_backend(bandit, settings).registry().attempts()
    assert (attempt.windows, attempt.trigger, attempt.metrics["quarantined"]) == (((0, VISITS),), "sensor", 0)
    trained = Policy.load(site.registry.path(done.version), bandit.problem).statistics
    assert trained.n.sum() == VISITS, "no row was set apart"
    after = visit(site, 300)
    assert {one["policy_version"] for one in after} == {done.version}
    assert sum(one["action_id"] == BEST for one in after) > 50, "it has learnt"
    health = httpx.get(f"{site.url()}/health", trust_env=False, timeout=patient(30)).json()
    assert (health["status"], health["serves"]) == ("ok", done.version)
    assert server.poll() is None, "and was never restarted"
    assert site.ask("visit-7") == answers[7], "what it answered before stands"
    until(lambda: store.head() == VISITS + 100, "the logger to close the others")
    assert store.query("SELECT DISTINCT policy_version AS v FROM interactions ORDER BY v").to_pylist() == [
        {"v": done.version},
        {"v": "uniform"},
    ]


def test_nothing_is_trained_before_anything_is_logged(site: Site, settings: Settings, tmp_path: Path) -> None:
    site.serve()
    with pytest.raises(NothingToDo, match="none of its 0 interactions is new"):
        retrain(site.bandit, settings, tmp_path)
