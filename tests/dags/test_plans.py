"""What a run submits, decided from the form, the registry and the log."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from bandit_ops.plans import Circumstances, NothingToDo, Refused, retrain_plan, startup_plan
from rl_core.backends.base import EventStore, Lineage, PolicyRegistry, WindowRef
from rl_core.config import Bandit

AGENT = {"agent_alpha": 0.2, "tikhonov_weight": 0.01, "half_life": 0.0}
STARTUP = {"source": "simulation", "rounds": 200, "seed": 1, "replace_champion": False, "enable_caching": True, **AGENT}
RETRAIN = {"full_retrain": False, "enable_caching": True, **AGENT}


@dataclass
class State:
    """A registry and a store with nothing but what plans ask of them."""

    champion: str | None = None
    windows: tuple[tuple[int, int], ...] = ()
    attempted: int = 0
    last: int = 0

    def alias(self, name: str) -> str | None:
        return self.champion if name == "champion" else None

    def lineage(self, version: str) -> Lineage:
        assert version == self.champion
        return Lineage(None, tuple(WindowRef(low, high, "digest") for low, high in self.windows))

    def last_attempted_seq(self) -> int:
        return self.attempted

    def head(self) -> int:
        return self.last


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

    def test_from_an_empty_log_is_refused_with_a_way_out(self, movielens: Bandit) -> None:
        with pytest.raises(Refused, match=r"no interaction in its log.*choose source=simulation"):
            startup_plan(circumstances(movielens, State(), {**STARTUP, "source": "log"}))

    def test_with_a_champion_is_refused_in_one_line(self, movielens: Bandit) -> None:
        with pytest.raises(Refused, match="has a champion already") as refused:
            startup_plan(circumstances(movielens, State(champion="movielens-v1-0003"), STARTUP))
        assert str(refused.value).count("\n") == 0
        assert "movielens-v1-0003" in str(refused.value)
        assert "replace_champion" in str(refused.value)

    def test_replaces_the_champion_where_asked_to(self, movielens: Bandit) -> None:
        form = {**STARTUP, "replace_champion": True}
        parameters = startup_plan(circumstances(movielens, State(champion="movielens-v1-0003"), form))["parameters"]
        assert parameters["champion"] == "movielens-v1-0003"
        assert parameters["full_retrain"] is True


class TestRetrain:
    BORN = State(champion="movielens-v1-0001", windows=((0, 200),), attempted=200, last=3200)

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
        assert self.plan(movielens, replace(self.BORN, attempted=3000))["windows"] == [[3000, 3200]]

    def test_in_full_takes_the_champions_windows_and_leaves_out_rejected_ones(self, movielens: Bandit) -> None:
        state = replace(self.BORN, windows=((0, 200), (3200, 6200)), attempted=9200, last=9300)
        assert self.plan(movielens, state, full_retrain=True)["windows"] == [[0, 200], [3200, 6200], [9200, 9300]]

    def test_in_full_needs_nothing_new(self, movielens: Bandit) -> None:
        assert self.plan(movielens, replace(self.BORN, last=200), full_retrain=True)["windows"] == [[0, 200]]

    @pytest.mark.parametrize(("manual", "trigger"), [(False, "sensor"), (True, "manual")])
    def test_says_who_began_it(self, movielens: Bandit, manual: bool, trigger: str) -> None:
        assert self.plan(movielens, self.BORN, manual=manual)["trigger"] == trigger

    def test_takes_the_agent_from_the_form(self, movielens: Bandit) -> None:
        assert self.plan(movielens, self.BORN, agent_alpha=1)["agent_alpha"] == 1.0

    def test_without_a_champion_has_nothing_to_do(self, movielens: Bandit) -> None:
        with pytest.raises(NothingToDo, match="movielens_startup"):
            self.plan(movielens, State(last=5000))

    def test_without_a_new_interaction_has_nothing_to_do(self, movielens: Bandit) -> None:
        with pytest.raises(NothingToDo, match="no new interaction since seq 200"):
            self.plan(movielens, replace(self.BORN, last=200))
