"""The exporter: a promoted version for TensorFlow, once; whatever becomes of it, the champion serves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Lineage, PolicyRegistry
from rl_core.bandit.linucb import accumulate
from rl_core.config import Agent, Bandit, Settings
from rl_core.features.encoder import Encoder
from rl_core.policy import saved_model
from rl_core.policy.artefact import Policy, write_artefact
from rl_core.problem_config import Problem
from rl_core.stages import exporter

DIM = 3


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    """Its second action is withdrawn, its last one new to the policy below; features get an intercept."""
    problem = Problem(
        observation_dim=DIM,
        observation_version="users-v1",
        intercept=True,
        actions=("a", "withdrawn", "b", "new"),
        inactive=("withdrawn",),
        action_set_version="letters-v1",
        reward_min=-5,
        reward_max=5,
        reward_default=0,
    )
    return movielens.model_copy(update={"problem": problem})


@pytest.fixture
def registry(bandit: Bandit, settings: Settings) -> PolicyRegistry:
    return open_backend(bandit, settings).registry()


@pytest.fixture
def version(bandit: Bandit, registry: PolicyRegistry, tmp_path: Path) -> str:
    rng = np.random.default_rng(3)
    features = Encoder.of(bandit.problem).encode(rng.standard_normal((500, DIM)).astype(np.float32))
    statistics = accumulate(features, rng.integers(0, 3, 500), rng.standard_normal(500), 3)
    agent = Agent(agent_alpha=0.02, tikhonov_weight=1.0)
    actions = ("withdrawn", "a", "b")
    write_artefact(tmp_path / "policy", bandit.problem, agent, statistics, actions=actions, scale=statistics.scale)
    version = registry.register(tmp_path / "policy", Lineage(None, ()))
    registry.promote(version, None)
    return version


@pytest.fixture
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorflow", "tf_agents"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.tf
def test_a_promoted_version_chooses_in_tensorflow_as_it_serves(
    bandit: Bandit, settings: Settings, registry: PolicyRegistry, version: str
) -> None:
    exporter.run(bandit, settings, version, promoted=True)
    folder = registry.exported(version)
    assert folder is not None
    actions = json.loads((folder / "actions.json").read_text())
    assert actions == ["a", "b", "new"]
    import tensorflow as tf
    from tf_agents.trajectories import time_step

    observations = np.random.default_rng(4).standard_normal((200, DIM)).astype(np.float32)
    encoder = Encoder.model_validate_json((folder / "encoder.json").read_text())
    policy = tf.saved_model.load(str(folder / "saved_model"))
    step = time_step.restart(tf.constant(encoder.encode(observations), tf.float32), batch_size=200)
    scores = Policy.load(registry.path(version), bandit.problem).scores(observations)
    scores[:, bandit.problem.actions.index("withdrawn")] = -np.inf
    served = [bandit.problem.actions[index] for index in scores.argmax(axis=1)]
    assert [actions[index] for index in policy.action(step).action.numpy()] == served
    assert len(set(served)) > 1


@pytest.mark.usefixtures("without_tensorflow")
def test_a_version_that_was_not_promoted_is_left_alone(
    bandit: Bandit, settings: Settings, registry: PolicyRegistry, version: str
) -> None:
    exporter.run(bandit, settings, version, promoted=False)
    assert registry.exported(version) is None


@pytest.mark.usefixtures("without_tensorflow")
def test_a_second_run_finds_the_first_ones_export(
    bandit: Bandit, settings: Settings, registry: PolicyRegistry, version: str, tmp_path: Path
) -> None:
    (tmp_path / "export" / "saved_model").mkdir(parents=True)
    (tmp_path / "export" / "encoder.json").write_text("{}")
    registry.attach(version, tmp_path / "export")
    exporter.run(bandit, settings, version, promoted=True)


def test_one_that_fails_undoes_nothing_and_a_later_one_exports(
    bandit: Bandit,
    settings: Settings,
    registry: PolicyRegistry,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object, out: Path) -> NoReturn:
        out.mkdir()
        raise MemoryError

    monkeypatch.setattr(saved_model, "export", fail)
    with pytest.raises(MemoryError):
        exporter.run(bandit, settings, version, promoted=True)
    assert (registry.alias("champion"), registry.exported(version)) == (version, None)
    monkeypatch.setattr(saved_model, "export", lambda _, out: out.mkdir())
    exporter.run(bandit, settings, version, promoted=True)
    assert registry.exported(version) is not None
