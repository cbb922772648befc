"""What a run submits, decided from the form, the registry and the log."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest

from bandit_ops.plans import Circumstances, NothingToDo, Planner, Refused, retrain_plan, startup_plan
from rl_core.backends.contracts.registry import Attempt, Lineage, PolicyRegistry, WindowRef
from rl_core.backends.contracts.store import EventStore, Window
from rl_core.bandit.linucb import accumulate
from rl_core.config import Agent, Bandit
from rl_core.policy.artefact import write_artefact

AGENT = {"agent_alpha": 0.2, "tikhonov_weight": 0.01, "half_life": 0.0}
STARTUP = {"source": "simulation", "rounds": 200, "seed": 1, "replace_champion": False, "enable_caching": True, **AGENT}
RETRAIN = {"full_retrain": False, "enable_caching": True, **AGENT}


@dataclass
class State:
    """A registry and a store with nothing but what plans ask of them."""

    champion: str | None = None
    windows: tuple[Window, ...] = ()
    tries: tuple[Attempt, ...] = ()
    last: int = 0
    artefact: Path = Path()

    def alias(self, name: str) -> str | None:
        return self.champion if name == "champion" else None

    def path(self, version: str) -> Path:
        return self.artefact

    def lineage(self, version: str) -> Lineage:
        held = self.windows if version == self.champion else ()
        return Lineage(None, tuple(WindowRef(low, high, "digest") for low, high in held))

    def attempts(self) -> list[Attempt]:
        return list(self.tries)

    def head(self) -> int:
        return self.last


def attempt(version: str, *windows: Window, verdict: Literal["promoted", "rejected"] = "promoted") -> Attempt:
    return Attempt(version, windows, verdict, version, "sensor", "", datetime(2026, 1, 1, tzinfo=UTC))


def artefact(out: Path, bandit: Bandit, half_life: float) -> Path:
    """A policy trained with this half-life."""
    rng, problem = np.random.default_rng(1), bandit.problem
    observations = rng.standard_normal((200, problem.observation_dim))
    actions = rng.integers(0, problem.num_actions, 200)
    statistics = accumulate(observations, actions, rng.standard_normal(200), problem.num_actions)
    agent = Agent(agent_alpha=0.2, tikhonov_weight=0.01, half_life=half_life)
    write_artefact(out, problem, agent, statistics)
    return out


@pytest.fixture
def at(movielens: Bandit) -> Circumstances:
    return circumstances(movielens, State(), STARTUP)


def circumstances(bandit: Bandit, state: State, form: dict[str, Any], manual: bool = False) -> Circumstances:
    return Circumstances(bandit, form, cast(PolicyRegistry, state), cast(EventStore, state), manual)


class TestStartup:
    def test_generates_and_trains_the_first_policy(self, at: Circumstances) -> None:
        assert startup_plan(at) == {
            "pipeline": "startup",
            "enable_caching": True,
            "parameters": {
                "rounds": 200,
                "seed": 1,
                "champion": "",
                "full_retrain": True,
                "trigger": "startup",
                **AGENT,
            },
        }

    def test_from_a_log_trains_on_all_of_it(self, movielens: Bandit) -> None:
        plan = startup_plan(circumstances(movielens, State(last=812), {**STARTUP, "source": "log"}))
        assert plan["pipeline"] == "retrain"
        assert plan["parameters"]["windows"] == "[[0, 812]]"
        assert plan["parameters"]["champion"] == ""

    def test_from_a_log_leaves_out_what_was_rejected_or_rolled_back(self, movielens: Bandit, tmp_path: Path) -> None:
        state = State(
            champion="v1",
            artefact=artefact(tmp_path / "policy", movielens, half_life=0),
            windows=((0, 200), (300, 400)),
            tries=(
                attempt("v1", (0, 200), (300, 400)),
                attempt("v2", (400, 500), verdict="rejected"),
                attempt("v3", (600, 700)),
            ),
            last=812,
        )
        form = {**STARTUP, "source": "log", "replace_champion": True}
        plan = startup_plan(circumstances(movielens, state, form))
        assert plan["parameters"]["windows"] == "[[0, 400], [500, 600], [700, 812]]"

    def test_from_a_log_of_nothing_but_refused_windows_is_refused(self, movielens: Bandit) -> None:
        state = State(tries=(attempt("v1", (0, 812), verdict="rejected"),), last=812)
        with pytest.raises(Refused, match=r"only rejected or rolled-back ones among its 812 interactions"):
            startup_plan(circumstances(movielens, state, {**STARTUP, "source": "log"}))

    def test_from_an_empty_log_is_refused_with_a_way_out(self, movielens: Bandit) -> None:
        with pytest.raises(Refused, match=r"no interaction in its log.*choose source=simulation"):
            startup_plan(circumstances(movielens, State(), {**STARTUP, "source": "log"}))

    def test_with_a_champion_is_refused_in_one_line(self, movielens: Bandit) -> None:
        with pytest.raises(Refused, match="has a champion already") as refused:
            startup_plan(circumstances(movielens, State(champion="movielens-v1-0003"), STARTUP))
        assert str(refused.value).count("\n") == 0
        assert "movielens-v1-0003" in str(refused.value)
        assert "replace_champion" in str(refused.value)

    def test_replaces_the_champion_where_asked_to(self, movielens: Bandit, tmp_path: Path) -> None:
        form = {**STARTUP, "replace_champion": True}
        state = State("movielens-v1-0003", artefact=artefact(tmp_path / "policy", movielens, half_life=0))
        parameters = startup_plan(circumstances(movielens, state, form))["parameters"]
        assert parameters["champion"] == "movielens-v1-0003"
        assert parameters["full_retrain"] is True


class TestRetrain:
    BORN = State("movielens-v1-0001", ((0, 200),), (attempt("movielens-v1-0001", (0, 200)),), last=3200)

    @pytest.fixture(autouse=True)
    def _trained_without_forgetting(self, movielens: Bandit, tmp_path: Path) -> None:
        self.BORN.artefact = artefact(tmp_path / "policy", movielens, half_life=0)

    def plan(self, bandit: Bandit, state: State, manual: bool = False, **form: Any) -> dict[str, Any]:
        plan = retrain_plan(circumstances(bandit, state, {**RETRAIN, **form}, manual))
        assert plan["pipeline"] == "retrain"
        return {**plan["parameters"], "windows": json.loads(str(plan["parameters"]["windows"]))}

    def test_trains_on_what_no_attempt_has_seen(self, movielens: Bandit) -> None:
        planned = self.plan(movielens, self.BORN)
        assert planned["windows"] == [[200, 3200]]
        assert planned["champion"] == "movielens-v1-0001"
        assert planned["full_retrain"] is False

    def test_counts_from_a_rejected_attempt_too(self, movielens: Bandit) -> None:
        tries = (*self.BORN.tries, attempt("movielens-v1-0002", (200, 3000), verdict="rejected"))
        assert self.plan(movielens, replace(self.BORN, tries=tries))["windows"] == [[3000, 3200]]

    def test_takes_the_windows_that_a_startup_left_behind(self, movielens: Bandit) -> None:
        tries = (*self.BORN.tries, attempt("movielens-v1-0002", (3000, 3100)))
        state = replace(self.BORN, champion="movielens-v1-0002", windows=((3000, 3100),), tries=tries)
        assert self.plan(movielens, state)["windows"] == [[200, 3000], [3100, 3200]]

    def test_does_not_take_what_the_champion_holds_though_no_attempt_says_so(self, movielens: Bandit) -> None:
        assert self.plan(movielens, replace(self.BORN, tries=()))["windows"] == [[200, 3200]]

    def test_in_full_takes_the_champions_windows_and_leaves_out_rejected_ones(self, movielens: Bandit) -> None:
        tries = (*self.BORN.tries, attempt("v2", (200, 3200), (6200, 9200), verdict="rejected"))
        state = replace(self.BORN, windows=((0, 200), (3200, 6200)), tries=tries, last=9300)
        assert self.plan(movielens, state, full_retrain=True)["windows"] == [[0, 200], [3200, 6200], [9200, 9300]]

    def test_in_full_needs_nothing_new(self, movielens: Bandit) -> None:
        assert self.plan(movielens, replace(self.BORN, last=200), full_retrain=True)["windows"] == [[0, 200]]

    @pytest.mark.parametrize(("manual", "trigger"), [(False, "sensor"), (True, "manual")])
    def test_says_who_began_it(self, movielens: Bandit, manual: bool, trigger: str) -> None:
        assert self.plan(movielens, self.BORN, manual=manual)["trigger"] == trigger

    def test_takes_the_agent_from_the_form(self, movielens: Bandit) -> None:
        assert self.plan(movielens, self.BORN, agent_alpha=1)["agent_alpha"] == 1.0

    def test_without_a_new_interaction_has_nothing_to_do(self, movielens: Bandit) -> None:
        with pytest.raises(NothingToDo, match="none of its 200 interactions is new"):
            self.plan(movielens, replace(self.BORN, last=200))


@pytest.mark.parametrize("full_retrain", [False, True])
@pytest.mark.parametrize("plan", [startup_plan, retrain_plan])
def test_a_champion_of_another_problem_is_no_rival_so_nothing_is_submitted(
    movielens: Bandit, tmp_path: Path, plan: Planner, full_retrain: bool
) -> None:
    state = State("v1", ((0, 200),), last=3200, artefact=artefact(tmp_path / "policy", movielens, half_life=0))
    problem = movielens.problem.model_copy(update={"observation_version": "users-v2"})
    form = {**STARTUP, **RETRAIN, "replace_champion": True, "full_retrain": full_retrain}
    with pytest.raises(Refused, match=r"v1 answers another problem: its observation_version .*Raise pipe_version"):
        plan(circumstances(movielens.model_copy(update={"problem": problem}), state, form))


class TestTheFirstRetrain:
    """Without a champion: a training of the first policy on all that is new, as a startup from the log plans it."""

    @pytest.mark.parametrize(("manual", "trigger"), [(False, "sensor"), (True, "manual")])
    def test_trains_anew_on_the_log_from_its_first_row(self, movielens: Bandit, manual: bool, trigger: str) -> None:
        form = {**RETRAIN, "half_life": 500.0}
        assert retrain_plan(circumstances(movielens, State(last=812), form, manual)) == {
            "pipeline": "retrain",
            "enable_caching": True,
            "parameters": {
                "windows": "[[0, 812]]",
                "champion": "",
                "full_retrain": True,
                "trigger": trigger,
                **AGENT,
                "half_life": 500.0,
            },
        }

    def test_plans_what_a_startup_from_the_log_would_but_for_the_trigger(self, movielens: Bandit) -> None:
        state = State(tries=(attempt("v1", (0, 300), verdict="rejected"),), last=812)
        retrain = retrain_plan(circumstances(movielens, state, RETRAIN))
        startup = startup_plan(circumstances(movielens, state, {**STARTUP, "source": "log"}))
        assert {**retrain["parameters"], "trigger": ""} == {**startup["parameters"], "trigger": ""}
        assert retrain["parameters"]["windows"] == "[[300, 812]]"

    @pytest.mark.parametrize("full_retrain", [False, True])
    def test_does_not_try_again_what_was_rejected(self, movielens: Bandit, full_retrain: bool) -> None:
        state = State(tries=(attempt("v1", (0, 812), verdict="rejected"),), last=812)
        with pytest.raises(NothingToDo, match="none of its 812 interactions is new"):
            retrain_plan(circumstances(movielens, state, {**RETRAIN, "full_retrain": full_retrain}))

    def test_has_nothing_to_do_on_an_empty_log(self, movielens: Bandit) -> None:
        with pytest.raises(NothingToDo, match="none of its 0 interactions is new"):
            retrain_plan(circumstances(movielens, State(), RETRAIN))

    def test_that_a_startup_overtook_goes_on_from_its_champion(self, movielens: Bandit, tmp_path: Path) -> None:
        """The gate opened before; the plan is made under the lease, which the startup gave back."""
        born = State("v1", ((812, 1012),), (attempt("v1", (812, 1012)),), 1012, artefact(tmp_path / "p", movielens, 0))
        planned = retrain_plan(circumstances(movielens, born, RETRAIN))["parameters"]
        assert (planned["champion"], planned["windows"], planned["full_retrain"]) == ("v1", "[[0, 812]]", False)


class TestTheHalfLifeOfARetrain:
    """Blocks of different half-lives can't be added, so only a full retrain changes it."""

    @pytest.fixture
    def state(self, movielens: Bandit, tmp_path: Path) -> State:
        """Trained once with half_life 500; the YAML says 0."""
        trained = artefact(tmp_path / "policy", movielens, half_life=500)
        return State("v1", ((0, 200),), (attempt("v1", (0, 200)),), last=3200, artefact=trained)

    def half_life(self, bandit: Bandit, state: State, **form: Any) -> Any:
        return retrain_plan(circumstances(bandit, state, {**RETRAIN, **form}))["parameters"]["half_life"]

    def test_stays_the_champions_where_the_form_was_left_alone_and_the_log_says_so(
        self, movielens: Bandit, state: State, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            assert self.half_life(movielens, state) == 500.0
        assert "half_life stays 500, as v1 has it; to make it 0, set full_retrain" in caplog.text

    def test_may_be_given_as_it_is(self, movielens: Bandit, state: State) -> None:
        assert self.half_life(movielens, state, half_life=500) == 500.0

    def test_given_anew_is_refused_in_one_line_before_anything_is_trained(
        self, movielens: Bandit, state: State
    ) -> None:
        with pytest.raises(Refused, match="half_life can't change between windows; set full_retrain") as refused:
            self.half_life(movielens, state, half_life=1000)
        assert str(refused.value).count("\n") == 0

    def test_changes_with_a_full_retrain(self, movielens: Bandit, state: State) -> None:
        assert self.half_life(movielens, state, half_life=1000, full_retrain=True) == 1000.0
        assert self.half_life(movielens, state, full_retrain=True) == 0.0
