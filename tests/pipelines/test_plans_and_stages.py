"""Plans carried out by the real stages, one after another in this process: what is trained is what the plan said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit_ops.plans import Circumstances, NothingToDo, Plan, Planner, Refused, retrain_plan, startup_plan
from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.config import Agent, Bandit, Settings
from rl_core.policy import judgement
from rl_core.policy.artefact import Policy
from rl_core.policy.windows import counted
from rl_core.stages import deployer, evaluator, generator, ingester, trainer
from rl_core.stages.deployer import Deployment

pytestmark = pytest.mark.tf

AGENT = {"agent_alpha": 0.2, "tikhonov_weight": 0.01, "half_life": 0.0}
FROM_LOG = {"source": "log", "replace_champion": False, "enable_caching": False, **AGENT}
FROM_SIMULATION = {**FROM_LOG, "source": "simulation", "rounds": 120, "seed": 9}
RETRAIN = {"full_retrain": False, "enable_caching": False, **AGENT}


class Loop:
    """Forms become plans, plans become policies. Every policy is promoted unless `judge` says otherwise."""

    def __init__(self, bandit: Bandit, settings: Settings, scratch: Path) -> None:
        self.bandit, self.settings, self.scratch = bandit, settings, scratch
        self.registry, self.store = open_backend(bandit, settings).registry(), open_backend(bandit, settings).store()
        self.jobs = 0

    def log(self, rows: int) -> None:
        self.jobs += 1
        generator.run(self.bandit, self.settings, rows, seed=100 + self.jobs)

    def start(self, **form: Any) -> Deployment:
        return self.carry_out(startup_plan, {**FROM_LOG, **form})

    def retrain(self, **form: Any) -> Deployment:
        return self.carry_out(retrain_plan, {**RETRAIN, **form})

    def carry_out(self, planner: Planner, form: dict[str, Any]) -> Deployment:
        plan: Plan = planner(Circumstances(self.bandit, form, self.registry, self.store, manual=True))
        given: dict[str, Any] = dict(plan["parameters"])
        self.jobs += 1
        out = self.scratch / str(self.jobs)
        bandit, settings, champion, full = self.bandit, self.settings, given["champion"] or None, given["full_retrain"]
        if plan["pipeline"] == "startup":
            windows = generator.run(bandit, settings, given["rounds"], given["seed"])
        else:
            windows = [(low, high) for low, high in json.loads(given["windows"])]
        agent = Agent(**{name: given[name] for name in AGENT})
        ingester.run(bandit, settings, windows, out / "data")
        trainer.run(bandit, settings, out / "data", champion, full, agent, out / "policy")
        evaluator.run(bandit, settings, out / "data", out / "policy", champion, full, out / "verdict")
        return deployer.run(
            bandit, settings, out / "policy", out / "verdict", champion, given["trigger"], f"job-{self.jobs}"
        )

    def champion(self) -> Policy:
        version = self.registry.alias("champion")
        assert version is not None
        return Policy.load(self.registry.path(version))

    def held(self) -> list[tuple[int, int]]:
        return counted(self.registry, self.registry.alias("champion"))


@pytest.fixture
def loop(movielens: Bandit, settings: Settings, tmp_path: Path) -> Loop:
    return Loop(movielens, settings, tmp_path)


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Makes the evaluator's verdict the given one; how it decides has tests of its own."""
    decide = judgement.decide

    def verdict(promote: bool) -> None:
        def decided(*given: Any) -> Any:
            decision = decide(*given)
            return judgement.Decision(promote, "as the test says", decision.metrics)

        monkeypatch.setattr(evaluator, "decide", decided)

    return verdict


def excluded(registry: PolicyRegistry) -> list[tuple[int, int, str]]:
    champion = registry.alias("champion")
    assert champion is not None
    return [(e.seq_low, e.seq_high, e.reason) for e in registry.lineage(champion).excluded]


def test_a_log_without_environment_gives_birth_and_is_learnt_from_on(loop: Loop, judge: Callable[[bool], None]) -> None:
    judge(True)
    loop.log(300)
    assert loop.start().promoted
    loop.log(100)
    loop.retrain()
    assert loop.held() == [(0, 300), (300, 400)]
    assert loop.champion().statistics.n.sum() == 400


def test_the_first_retrain_gives_birth_and_a_rejected_one_leaves_its_rows_out_for_good(
    loop: Loop, judge: Callable[[bool], None]
) -> None:
    judge(False)
    loop.log(100)
    assert not loop.retrain().promoted
    with pytest.raises(NothingToDo, match="none of its 100 interactions is new"):
        loop.retrain()
    judge(True)
    loop.log(200)
    born = loop.retrain()
    assert (born.promoted, loop.held(), loop.champion().statistics.n.sum()) == (True, [(100, 300)], 200)
    assert excluded(loop.registry) == [(0, 100, "as the test says")]
    assert [attempt.trigger for attempt in loop.registry.attempts()] == ["manual", "manual"]
    with pytest.raises(Refused, match=f"has a champion already \\({born.version}\\), made by a startup or"):
        loop.start()


def test_a_policy_started_anew_from_the_log_takes_no_refused_window(loop: Loop, judge: Callable[[bool], None]) -> None:
    judge(True)
    loop.log(300)
    loop.start()
    loop.log(100)
    judge(False)
    assert not loop.retrain().promoted
    loop.log(50)
    judge(True)
    loop.start(replace_champion=True)
    assert loop.held() == [(0, 300), (400, 450)]
    assert excluded(loop.registry) == [(300, 400, "as the test says")]


def test_interactions_that_a_replaced_champion_left_behind_are_in_the_next_retrain(
    loop: Loop, judge: Callable[[bool], None]
) -> None:
    judge(True)
    loop.log(200)
    first = loop.start().version
    loop.log(150)
    loop.carry_out(startup_plan, {**FROM_SIMULATION, "replace_champion": True})
    assert loop.held() == [(350, 470)]
    loop.retrain()
    assert loop.held() == [(200, 350), (350, 470)]
    assert excluded(loop.registry) == [(0, 200, f"{first} was replaced by a policy started anew")]


def test_the_half_life_changes_with_a_full_retrain_and_is_kept_by_the_runs_that_follow(
    loop: Loop, judge: Callable[[bool], None]
) -> None:
    judge(True)
    loop.log(200)
    loop.start()
    loop.log(100)
    with pytest.raises(Refused, match="set full_retrain"):
        loop.retrain(half_life=50.0)
    loop.retrain(half_life=50.0, full_retrain=True)
    assert loop.champion().manifest.hyperparameters.half_life == 50.0
    loop.log(100)
    assert loop.retrain().promoted
    policy = loop.champion()
    assert (policy.manifest.hyperparameters.half_life, loop.held()) == (50.0, [(0, 200), (200, 300), (300, 400)])
    assert np.isclose(policy.statistics.n.sum(), sum(2 ** (-age / 50) for age in range(400)), rtol=1e-12)
