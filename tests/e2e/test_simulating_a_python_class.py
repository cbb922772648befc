"""The simulator sends the users of a plain Python class to a real server, with the rewards that are theirs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from rl_core.config import Bandit, Settings
from rl_core.environments import load_environment

if TYPE_CHECKING:
    from tests.e2e.conftest import Site

WORLDS = """
class Numbers:
    def observe(self, rng, n):
        return rng.standard_normal((n, 2))

    def reward(self, observation, action_id, event_id):
        return float(abs(observation[0]) % 1 / (1 + len(action_id)) + len(event_id) / 100)


class Named:
    def observe(self, rng, n):
        return [{"age": rng.integers(18, 90)} for _ in range(n)]

    def reward(self, observation, action_id, event_id):
        return observation["age"] / 100 if action_id == "a" else 0
"""
SHOWN: dict[str, dict[str, Any]] = {
    "Numbers": {"observation_dim": 2},
    "Named": {"features": {"age": {"kind": "number", "min": 0, "max": 100}}},
}


@pytest.fixture(params=SHOWN)
def movielens(
    request: pytest.FixtureRequest, movielens: Bandit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bandit:
    """Another problem under its name, with a world of its own."""
    (tmp_path / "worlds_of_ours.py").write_text(WORLDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    problem = {"actions": ["a", "bcd"], "reward_min": 0, "reward_max": 1, "reward_default": 0}
    bandit = Bandit.model_validate(
        movielens.model_dump(mode="json")
        | {"problem": problem | SHOWN[request.param]}
        | {"environment": {"kind": "python", "factory": f"worlds_of_ours:{request.param}"}}
    )
    monkeypatch.setenv("BANDIT_DEFINITION", bandit.model_dump_json())
    return bandit


def test_each_is_decided_for_as_it_shows_itself_and_rewards_its_own_action(site: Site, settings: Settings) -> None:
    server = site.serve()
    simulator = site.run("simulate", "--decisions", "60", "--concurrency", "4")
    assert simulator.stdout is not None
    said = simulator.stdout.read()
    assert simulator.wait() == 0, said
    assert "60 users from worlds_of_ours:" in said
    decisions, rewards = site.on_the_bus("decisions"), site.on_the_bus("rewards")
    given = {one["event_id"]: one["reward"] for one in rewards}
    assert len(decisions) == len(given) == 60
    assert {one["source"] for one in decisions} == {"simulator"}
    environment, _ = load_environment(site.bandit, settings)
    for one in decisions:
        shown = orjson.loads(one["features"]) if one.get("features") else np.float32(one["observation"])
        again = environment.earned([shown], [one["action_id"]], [one["event_id"]])
        assert given[one["event_id"]] == again[0]
    assert server.poll() is None
