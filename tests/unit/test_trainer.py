"""The trainer: windows add up, one pass each, to what a stock LinearUCBAgent learns; a full retrain changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Lineage, WindowRef
from rl_core.backends.contracts.store import Window
from rl_core.bandit.linucb import LinUCB, accumulate
from rl_core.config import Agent, Bandit, Settings
from rl_core.dataset import trajectories
from rl_core.dataset.trajectories import Part, Rows
from rl_core.errors import DataError, PolicyError, RegistryError
from rl_core.policy.artefact import Policy, block_name
from rl_core.policy.manifest import Manifest
from rl_core.problem_config import Problem
from rl_core.stages import trainer

K, DIM = 4, 3
AGENT = Agent(agent_alpha=0.2, tikhonov_weight=0.01)


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    problem = Problem(
        observation_dim=DIM,
        observation_version="users-v1",
        actions=("a", "b", "c", "d"),
        action_set_version="letters-v1",
        reward_min=-5,
        reward_max=5,
        reward_default=0,
    )
    return movielens.model_copy(update={"problem": problem})


def _rows(low: int, high: int) -> Rows:
    """Rows low+1..high of one endless log, whatever window they are asked in."""
    rng = np.random.default_rng(9)
    observation = rng.standard_normal((1000, DIM)).astype(np.float32)[low:high]
    action = rng.integers(0, K, 1000).astype(np.int32)[low:high]
    reward = rng.standard_normal(1000).astype(np.float32)[low:high]
    n = high - low
    return Rows(np.arange(low + 1, high + 1), observation, action, reward, np.full(n, 1 / K), np.ones((n, K), bool))


def _dataset(bandit: Bandit, out: Path, *windows: Window) -> Path:
    parts = (Part(window, rows := _rows(*window), (rows.seq * 7 % 5).astype(np.int8)) for window in windows)
    trajectories.write(out, bandit.problem, windows, parts)
    return out


def _register(bandit: Bandit, settings: Settings, artefact: Path, manifest: Manifest) -> str:
    registry = open_backend(bandit, settings).registry()
    for window in manifest.trained:
        registry.put_block(artefact / block_name(window))
    return registry.register(artefact, Lineage(manifest.parent, manifest.windows))


def _train_in_steps(
    bandit: Bandit, settings: Settings, scratch: Path, agent: Agent, *windows: Window
) -> tuple[str, Policy]:
    """Startup, then one retrain per further window; returns the last version and policy."""
    champion = None
    for window in windows:
        artefact = scratch / f"policy-{window[1]}"
        dataset = _dataset(bandit, scratch / f"data-{window[1]}", window)
        manifest = trainer.run(bandit, settings, dataset, champion, False, agent, artefact)
        champion = _register(bandit, settings, artefact, manifest)
    assert champion is not None
    return champion, Policy.load(artefact, bandit.problem)


class TestTheFirstPolicy:
    def test_is_linucb_of_every_row_once(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        dataset = _dataset(bandit, tmp_path / "data", (0, 300))
        with pytest.MonkeyPatch.context() as patch:
            for name in ("tensorflow", "tf_agents"):  # it takes seconds to import, and the new policy would wait for it
                patch.setitem(sys.modules, name, None)
            manifest = trainer.run(bandit, settings, dataset, None, False, AGENT, tmp_path / "policy")
        rows = _rows(0, 300)
        statistics = accumulate(rows.observation, rows.action, rows.reward, K)
        expected = LinUCB.of(statistics, 0.2, 0.01, scale=statistics.scale)
        policy = Policy.load(tmp_path / "policy", bandit.problem)
        assert np.abs(policy.model.theta - expected.theta).max() < 1e-12
        assert policy.statistics.n.sum() == 300
        assert manifest == policy.manifest
        assert manifest.parent is None
        assert manifest.trained == ((0, 300),)

    def test_of_two_windows_keeps_a_block_of_each(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        dataset = _dataset(bandit, tmp_path / "data", (0, 100), (150, 300))
        manifest = trainer.run(bandit, settings, dataset, None, False, AGENT, tmp_path / "policy")
        assert manifest.trained == ((0, 100), (150, 300))
        assert {block_name(window) for window in manifest.trained} <= manifest.files.keys()


class TestARetrain:
    @pytest.mark.parametrize("half_life", [0.0, 150.0])
    def test_over_the_whole_log_equals_the_incremental_policy(
        self, bandit: Bandit, settings: Settings, tmp_path: Path, half_life: float
    ) -> None:
        agent = AGENT.model_copy(update={"half_life": half_life})
        champion, steps = _train_in_steps(bandit, settings, tmp_path, agent, (0, 200), (200, 450), (450, 500))
        whole = _dataset(bandit, tmp_path / "whole", (0, 500))
        manifest = trainer.run(bandit, settings, whole, champion, True, agent, tmp_path / "full")
        full = Policy.load(tmp_path / "full", bandit.problem)
        assert manifest.windows == (WindowRef(0, 500, manifest.files["block-0-500.npz"]),)
        assert manifest.parent == champion
        for name in ("a", "b", "n"):
            one, other = getattr(full.statistics, name), getattr(steps.statistics, name)
            assert np.abs(one - other).max() <= 1e-10 * np.abs(other).max()
        assert np.abs(full.model.theta - steps.model.theta).max() <= 1e-10 * np.abs(steps.model.theta).max()

    def test_adds_its_window_to_the_lineage(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        _, policy = _train_in_steps(bandit, settings, tmp_path, AGENT, (0, 200), (200, 450))
        assert [(ref.seq_low, ref.seq_high) for ref in policy.manifest.windows] == [(0, 200), (200, 450)]
        assert policy.manifest.trained == ((200, 450),)
        assert policy.statistics.n.sum() == 450

    def test_of_a_window_that_the_champion_holds_is_refused(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        champion, _ = _train_in_steps(bandit, settings, tmp_path, AGENT, (0, 200))
        dataset = _dataset(bandit, tmp_path / "again", (150, 300))
        with pytest.raises(PolicyError, match="overlap"):
            trainer.run(bandit, settings, dataset, champion, False, AGENT, tmp_path / "out")

    def test_with_another_half_life_asks_for_a_full_one(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        champion, _ = _train_in_steps(bandit, settings, tmp_path, AGENT, (0, 200))
        dataset = _dataset(bandit, tmp_path / "next", (200, 300))
        agent = AGENT.model_copy(update={"half_life": 50.0})
        with pytest.raises(PolicyError, match=r"half_life.*full retrain"):
            trainer.run(bandit, settings, dataset, champion, False, agent, tmp_path / "out")

    def test_of_an_unknown_champion_is_refused(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        dataset = _dataset(bandit, tmp_path / "data", (0, 100))
        with pytest.raises(RegistryError):
            trainer.run(bandit, settings, dataset, "movielens-v1-0042", False, AGENT, tmp_path / "out")


def test_without_a_dataset_the_error_names_the_file(bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json"):
        trainer.run(bandit, settings, tmp_path, None, False, AGENT, tmp_path / "out")
