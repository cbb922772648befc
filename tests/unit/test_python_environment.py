"""A plain Python class as the bandit's environment: the class of the documentation learns, a wrong one is one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.environments import load_environment
from rl_core.errors import ConfigError, EndpointError, SchemaError
from rl_core.features.vectorise import Vectoriser
from rl_core.movielens.environment import load_environment as load_movielens
from rl_core.policy.artefact import Policy
from rl_core.simulation import request
from rl_core.simulation.request import TrafficRequest
from rl_core.stages import generator, ingester, trainer
from tests.worlds import Shop

PROBLEM = {"observation_dim": 2, "actions": ["a", "b"], "reward_min": 0, "reward_max": 1, "reward_default": 0}
NAMED = {"features": {"age": "number"}, "actions": ["a", "b"], "reward_min": 0, "reward_max": 1, "reward_default": 0}


def bandit_of(factory: str = "tests.worlds:Shop", problem: dict[str, Any] = PROBLEM, **arguments: Any) -> Bandit:
    environment = {"kind": "python", "factory": factory, "arguments": arguments}
    written = {"name": "shop", "prefix": "shop", "pipe_version": "v1", "problem": problem, "environment": environment}
    return Bandit.from_json(orjson.dumps(written).decode())


def trained(bandit: Bandit, settings: Settings, scratch: Path, rounds: int) -> Policy:
    windows = generator.run(bandit, settings, rounds, seed=1)
    assert ingester.run(bandit, settings, windows, scratch / "data") == rounds
    trainer.run(bandit, settings, scratch / "data", None, False, bandit.agent, scratch / "policy")
    return Policy.load(scratch / "policy", bandit.problem)


def test_of_numbers_is_generated_ingested_and_learnt(settings: Settings, tmp_path: Path) -> None:
    bandit = bandit_of()
    policy = trained(bandit, settings, tmp_path, 400)
    assert policy.means(np.array([[1, 0], [-1, 0]], np.float32)).argmax(axis=1).tolist() == [0, 1]
    rows = open_backend(bandit, settings).store().interactions((0, 400)).to_pylist()
    again = [Shop().reward(np.float32(row["observation"]), row["action_id"], row["event_id"]) for row in rows]
    assert again == [row["reward"] for row in rows]


class TestTheOneOfTheDocumentation:
    @pytest.fixture
    def bandit(self, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bandit:
        text = (repo / "docs" / "environments.md").read_text()
        code, written = (re.findall(rf"```{kind}\n(.*?)```", text, re.S)[0] for kind in ("python", "yaml"))
        (tmp_path / "front_page.py").write_text(code)
        (tmp_path / "front_page.yaml").write_text(written)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "front_page", raising=False)
        return Bandit.from_yaml(tmp_path / "front_page.yaml")

    def test_logs_named_features_as_the_server_does_and_learns(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        policy = trained(bandit, settings, tmp_path, 2000)
        rows = open_backend(bandit, settings).store().interactions((0, 2000)).to_pylist()
        assert all(row["observation"] == [] for row in rows)
        said = [orjson.loads(row["features"]) for row in rows]
        assert {type(one["age"]) for one in said} == {int}
        assert {one["country"] for one in said} == {"de", "fr"}
        young_and_old = Vectoriser(bandit.problem.features).rows(
            [{"country": "de", "age": 20}, {"country": "fr", "age": 80}]
        )
        assert policy.means(young_and_old).argmax(axis=1).tolist() == [0, 1]

    def test_adds_nothing_when_it_is_generated_again(self, bandit: Bandit, settings: Settings) -> None:
        assert generator.run(bandit, settings, 50, seed=1) == generator.run(bandit, settings, 50, seed=1) == [(0, 50)]


def test_another_behaviour_is_another_world(settings: Settings) -> None:
    identities = [
        load_environment(bandit_of("tests.worlds:Wrong", reward=reward), settings)[0].identity()
        for reward in (0.5, 0.5, 0.6)
    ]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("tests.nowhere:Shop", "there is no module tests.nowhere; install it for the Python of jobs and simulator"),
        ("nowhere.at_all:Shop", "there is no module nowhere; install it"),
        ("tests.worlds:Shopp", "the module has no such name; did you mean Shop?"),
        ("tests.worlds:NUMBER", "the module holds a int under it; name a class or a function"),
        ("tests.worlds:Silent", "it makes a Silent without reward; an environment has observe(rng, n) and reward("),
        ("builtins:object", "it makes a object without observe and reward"),
    ],
)
def test_a_factory_that_makes_none_is_one_line(settings: Settings, factory: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_environment(bandit_of(factory), settings)
    assert str(refused.value).startswith(f"environment.factory {factory}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_factory_that_fails_says_where(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"called with \{'colour': 'red'\} it raised TypeError: .*'colour'; look"):
        load_environment(bandit_of("tests.worlds:Wrong", colour="red"), settings)
    (tmp_path / "half_made.py").write_text("\nimport that_is_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"import raised ModuleNotFoundError: .*'that_is_missing' .*half_made\.py:2"):
        load_environment(bandit_of("half_made:World"), settings)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"observe": "one column"}, "observe gives the shape (32, 1); n=32 and problem.observation_dim want (32, 2)"),
        ({"observe": "fewer"}, "observe gives the shape (31, 2)"),
        ({"observe": "words"}, "observe gives no array of numbers (could not convert string to float:"),
        ({"observe": "ragged"}, "observe gives no array of numbers (setting an array element"),
        ({"observe": "infinite"}, "observe gives inf in column"),
        ({"observe": "too large"}, "give finite float32 numbers"),
        ({"observe": "dicts"}, "observe gives dicts; declare problem.features, or give an array"),
        ({"observe": "other users", "reward": 0.5}, "give something else when asked again; draw users from the rng"),
        ({"reward": "chance"}, "give something else when asked again"),
        ({"reward": "broken"}, "reward raised ZeroDivisionError: no price ("),
        ({"reward": 1.5}, "reward gives 1.5 for action 'a'; it has to be within problem.reward_min..reward_max, 0..1"),
        ({"reward": None}, "reward gives 'None'; it has to be one number"),
        ({"reward": [0.5]}, "reward gives '[0.5]'; it has to be one number"),
        ({"reward": "much"}, "reward gives 'much'; it has to be one number"),
    ],
)
def test_what_breaks_the_problem_is_one_line_before_anything_is_logged(
    settings: Settings, arguments: dict[str, Any], said: str
) -> None:
    bandit = bandit_of("tests.worlds:Wrong", **arguments)
    with pytest.raises(SchemaError) as refused:
        generator.run(bandit, settings, 10, seed=1)
    assert str(refused.value).startswith("environment.factory tests.worlds:Wrong: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert open_backend(bandit, settings).store().head() == 0


@pytest.mark.parametrize("reward", ["nan", "inf"])
def test_a_reward_that_is_not_finite_is_outside_the_bounds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, reward: str
) -> None:
    monkeypatch.setattr(Shop, "reward", lambda *asked: float(reward))
    with pytest.raises(SchemaError, match=f"reward gives {reward} for action 'a'"):
        load_environment(bandit_of(), settings)


def test_named_features_want_dicts_of_them(settings: Settings) -> None:
    with pytest.raises(SchemaError, match=r"problem\.features is declared: give a list of 32 dicts"):
        load_environment(bandit_of(problem=NAMED), settings)
    other = NAMED | {"features": {"wage": "number"}}
    with pytest.raises(SchemaError, match=r"observe\(…\)\[0\] has 'age', which is no feature; did you mean wage"):
        load_environment(bandit_of("tests.worlds:Wrong", other, observe="dicts"), settings)


def test_is_never_asked_of_a_withdrawn_action(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def reward(self: Shop, observation: Any, action_id: str, event_id: str) -> float:
        asked.add(action_id)
        return 0.5

    monkeypatch.setattr(Shop, "reward", reward)
    withdrawn = PROBLEM | {"actions": ["a", "b", {"id": "c", "active": False}]}
    generator.run(bandit_of(problem=withdrawn), settings, 20, seed=1)
    assert asked == {"a", "b"}


def test_what_needs_movielens_says_so(settings: Settings) -> None:
    with pytest.raises(ConfigError, match=r"environment\.kind=python; this needs movielens"):
        load_movielens(bandit_of(), settings)


def test_the_simulator_function_downloads_no_ratings_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "download", lambda path: pytest.fail(f"downloads {path}"))
    with pytest.raises(EndpointError):  # there is no server
        request.serve(TrafficRequest(), bandit_of(), settings.model_copy(update={"movielens_dir": None}), 0)
