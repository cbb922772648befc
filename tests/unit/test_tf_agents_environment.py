"""Environments of TF-Agents, stock and own, as a bandit's environment: reproducible by event, although they are not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import yaml

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.environments import load_environment
from rl_core.errors import ConfigError, SchemaError
from rl_core.policy.saved_model import import_tf_agents
from rl_core.stages import generator

pytestmark = pytest.mark.tf
STOCK = "tf_agents.bandits.environments"


@pytest.fixture(autouse=True)
def _imported() -> None:
    import_tf_agents()  # its import warns


def bandit_of(factory: str, problem: dict[str, Any], **arguments: Any) -> Bandit:
    environment = {"kind": "python", "factory": factory, "arguments": arguments}
    written = {"name": "wheel", "prefix": "wheel", "pipe_version": "v1", "problem": problem, "environment": environment}
    return Bandit.from_json(orjson.dumps(written).decode())


@pytest.fixture
def wheel(repo: Path) -> Bandit:
    """The one of docs/environments.md."""
    text = (repo / "docs" / "environments.md").read_text()
    written = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, re.S)[1])
    return bandit_of(written["environment"]["factory"], written["problem"], **written["environment"]["arguments"])


def problem_of(dim: int, actions: int, highest: float = 1) -> dict[str, Any]:
    ids = [f"action-{n}" for n in range(actions)]
    return {"observation_dim": dim, "actions": ids, "reward_min": 0, "reward_max": highest, "reward_default": 0}


def test_the_wheel_rewards_the_user_who_was_shown(wheel: Bandit, settings: Settings) -> None:
    assert generator.run(wheel, settings, 300, seed=1) == [(0, 300)]
    rows = open_backend(wheel, settings).store().interactions((0, 300)).to_pylist()
    observations = np.array([row["observation"] for row in rows])
    rewards = np.array([row["reward"] for row in rows])
    far = np.linalg.norm(observations, axis=1) > 0.5
    best = np.array([{(1, 1): 1, (1, -1): 2, (-1, 1): 3, (-1, -1): 4}[tuple(signs)] for signs in np.sign(observations)])
    lucky = far & (np.array([wheel.problem.actions.index(row["action_id"]) for row in rows]) == best)
    assert 20 < lucky.sum() < 80
    assert np.abs(rewards[lucky] - 5).max() < 0.1
    assert rewards[~lucky].max() < 1.3


def test_users_and_rewards_are_the_same_when_asked_again_in_another_order(wheel: Bandit, settings: Settings) -> None:
    first, second = (load_environment(wheel, settings)[0] for _ in range(2))
    users = first.observe(np.random.default_rng(3), 20)
    actions, events = [wheel.problem.actions[n % 5] for n in range(20)], [f"event-{n}" for n in range(20)]
    rewards = first.earned(users, actions, events)
    others = second.observe(np.random.default_rng(3), 20)
    assert np.array_equal(np.asarray(first.shown(users)), np.asarray(second.shown(others)))
    backwards = second.earned(others[::-1], actions[::-1], events[::-1])
    assert np.array_equal(backwards[::-1], rewards)
    assert len(set(rewards.tolist())) == 20


def test_bernoulli_observes_one_number_and_rewards_by_chance(settings: Settings) -> None:
    factory = f"{STOCK}.bernoulli_py_environment:BernoulliPyEnvironment"
    environment, _ = load_environment(bandit_of(factory, problem_of(1, 3), means=[0.1, 0.5, 0.9]), settings)
    users = environment.observe(np.random.default_rng(1), 400)
    events = [f"event-{n}" for n in range(400)]
    for action, mean in (("action-0", 0.1), ("action-2", 0.9)):
        rewards = environment.earned(users, [action] * 400, events)
        assert set(rewards.tolist()) == {0.0, 1.0}
        assert rewards.mean() == pytest.approx(mean, abs=4 * np.sqrt(0.09 / 400))


def stationary(own_stream: bool = False) -> Any:
    """Made by a function, as one with functions among its arguments has to be."""
    from tf_agents.bandits.environments.stationary_stochastic_py_environment import StationaryStochasticPyEnvironment

    stream = np.random.default_rng() if own_stream else np.random
    return StationaryStochasticPyEnvironment(
        lambda: stream.random((3, 2)), [lambda x: x[0], lambda x: x[1]], batch_size=3
    )


def test_one_of_batches_is_taken_by_its_first(settings: Settings) -> None:
    environment, _ = load_environment(bandit_of(f"{__name__}:stationary", problem_of(2, 2)), settings)
    users = environment.observe(np.random.default_rng(1), 5)
    shown = environment.shown(users)
    assert isinstance(shown, np.ndarray)
    assert environment.earned(users, ["action-1"] * 5, list("abcde")) == pytest.approx(shown[:, 1], abs=1e-6)


def test_what_can_not_be_reproduced_or_has_other_actions_is_refused(settings: Settings) -> None:
    with pytest.raises(SchemaError, match="give something else when asked again"):
        load_environment(bandit_of(f"{__name__}:stationary", problem_of(2, 2), own_stream=True), settings)
    with pytest.raises(ConfigError, match=r"stationary: it has 2 actions, problem\.actions lists 4; list as many"):
        load_environment(bandit_of(f"{__name__}:stationary", problem_of(2, 4)), settings)
    with pytest.raises(SchemaError, match=r"observe gives the shape \(32, 2\)"):
        load_environment(bandit_of(f"{__name__}:stationary", problem_of(3, 2)), settings)
