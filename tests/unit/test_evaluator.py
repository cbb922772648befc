"""The evaluator: the better policy is recognised from the logged rows, on rows that did not teach it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Lineage, WindowRef
from rl_core.backends.contracts.store import Window
from rl_core.bandit.blocks import combine
from rl_core.bandit.exploration import probabilities
from rl_core.bandit.linucb import LinUCB, accumulate
from rl_core.config import Agent, Bandit, Settings, Validation
from rl_core.dataset import trajectories
from rl_core.dataset.trajectories import Dataset, Part, Rows
from rl_core.errors import DataError, PolicyError
from rl_core.policy.artefact import block_name, write_artefact
from rl_core.policy.judgement import MIN_ROWS
from rl_core.policy.lineage import load_blocks, make_blocks, statistics_without
from rl_core.policy.verdict import Verdict
from rl_core.problem_config import Problem
from rl_core.stages import evaluator
from tests.log_rows import decision, decisions, rewards
from tests.log_rows import reward as reward_of

K, DIM = 4, 3
AGENT = Agent(agent_alpha=0.1, tikhonov_weight=0.01)
TRUTH = np.random.default_rng(3).standard_normal((K, DIM))
"""Expected reward of action k for observation x: TRUTH[k] · x."""


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    problem = Problem(
        observation_dim=DIM,
        observation_version="users-v1",
        actions=("a", "b", "c", "d"),
        action_set_version="letters-v1",
        reward_min=-50,
        reward_max=50,
        reward_default=0,
    )
    return movielens.model_copy(update={"problem": problem})


def _rows(window: Window, sign: float = 1.0, restricted: bool = False) -> Rows:
    """A uniform log in which actions earn `sign` times the truth, with noise of sd 1."""
    low, high = window
    n = high - low
    rng = np.random.default_rng([5, low])
    observation = rng.standard_normal((n, DIM)).astype(np.float32)
    eligible = rng.random((n, K)) < 0.6 if restricted else np.ones((n, K), bool)
    eligible[~eligible.any(axis=1)] = True
    action = np.array([rng.choice(np.flatnonzero(row)) for row in eligible], dtype=np.int32)
    reward = sign * np.einsum("nd,nd->n", observation, TRUTH[action]) + rng.standard_normal(n)
    propensity = 1.0 / eligible.sum(axis=1)
    return Rows(np.arange(low + 1, high + 1), observation, action, reward.astype(np.float32), propensity, eligible)


def _dataset(bandit: Bandit, out: Path, rows: Rows, *windows: Window) -> Path:
    parts = []
    for low, high in windows:
        own = rows.take(np.flatnonzero((rows.seq > low) & (rows.seq <= high)))
        parts.append(Part((low, high), own, (own.seq % 5).astype(np.int8)))
    trajectories.write(out, bandit.problem, windows, parts)
    return out


def _train(bandit: Bandit, settings: Settings, dataset: Path, champion: str | None, out: Path) -> Path:
    """What the trainer writes."""
    registry = open_backend(bandit, settings).registry()
    inherited = registry.lineage(champion).windows if champion else ()
    blocks = make_blocks(Dataset.open(dataset), AGENT.half_life)
    every = [*load_blocks(registry, inherited, bandit.problem.actions), *blocks]
    statistics = combine(every, max(block.seq_high for block in every))
    write_artefact(out, bandit.problem, AGENT, statistics, blocks, parent=champion, inherited=inherited)
    return out


def _crown(bandit: Bandit, settings: Settings, artefact: Path, window: Window) -> str:
    registry = open_backend(bandit, settings).registry()
    ref = WindowRef(*window, registry.put_block(artefact / block_name(window)))
    return registry.register(artefact, Lineage(None, (ref,)))


def _truth_of(policy: LinUCB, bandit: Bandit) -> float:
    """The value of serving this policy, over 200,000 new observations of the same world."""
    observation = np.random.default_rng(8).standard_normal((200_000, DIM))
    served = probabilities(policy.scores(observation), None, bandit.serving.epsilon)
    return float(np.einsum("nk,nk->n", served, observation @ TRUTH.T).mean())


class TestWithoutAChampion:
    def test_the_challenger_is_promoted_with_an_estimate_that_holds_its_true_value(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        dataset = _dataset(bandit, tmp_path / "data", _rows((0, 4000)), (0, 4000))
        policy = _train(bandit, settings, dataset, None, tmp_path / "policy")
        verdict = evaluator.run(bandit, settings, dataset, policy, None, False, tmp_path / "verdict")
        rows = _rows((0, 4000))
        true = _truth_of(LinUCB.of(accumulate(rows.observation, rows.action, rows.reward, K), 0.1, 0.01), bandit)
        assert verdict.promote
        assert "no champion yet" in verdict.reason
        assert verdict.metrics["challenger_dr_low"] < true < verdict.metrics["challenger_dr_high"]
        assert verdict.metrics["behaviour_mean"] == pytest.approx(rows.reward.mean(), abs=1e-6)
        assert Verdict.load(tmp_path / "verdict") == verdict

    @pytest.mark.parametrize("high", [1, 100])
    def test_what_was_quarantined_is_among_the_figures(
        self, bandit: Bandit, settings: Settings, tmp_path: Path, high: int
    ) -> None:
        rows = _rows((0, high))
        part = Part((0, high), rows, (rows.seq % 5).astype(np.int8))
        trajectories.write(tmp_path / "data", bandit.problem, [(0, high)], [part], {"reward": 2, "propensity": 3})
        policy = _train(bandit, settings, tmp_path / "data", None, tmp_path / "policy")
        verdict = evaluator.run(bandit, settings, tmp_path / "data", policy, None, False, tmp_path / "verdict")
        assert verdict.metrics["quarantined"] == 5.0


class TestAgainstAChampion:
    def test_a_challenger_with_far_more_data_is_promoted(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        small = _dataset(bandit, tmp_path / "small", _rows((0, 20)), (0, 20))
        champion = _crown(bandit, settings, _train(bandit, settings, small, None, tmp_path / "old"), (0, 20))
        large = _dataset(bandit, tmp_path / "large", _rows((20, 4020)), (20, 4020))
        policy = _train(bandit, settings, large, champion, tmp_path / "new")
        verdict = evaluator.run(bandit, settings, large, policy, champion, False, tmp_path / "verdict")
        assert verdict.promote
        assert verdict.metrics["difference_dr_low"] > 0
        assert verdict.champion == champion

    def test_a_challenger_taught_the_opposite_is_rejected_with_numbers(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        good = _dataset(bandit, tmp_path / "good", _rows((0, 1000)), (0, 1000))
        champion = _crown(bandit, settings, _train(bandit, settings, good, None, tmp_path / "old"), (0, 1000))
        wrong = _dataset(bandit, tmp_path / "wrong", _rows((1000, 5000), sign=-1.0), (1000, 5000))
        policy = _train(bandit, settings, wrong, None, tmp_path / "new")
        judged = _dataset(bandit, tmp_path / "judged", _rows((5000, 7000)), (5000, 7000))
        verdict = evaluator.run(bandit, settings, judged, policy, champion, False, tmp_path / "verdict")
        assert not verdict.promote
        assert verdict.metrics["difference_dr_high"] < 0
        assert "clearly worse" in verdict.reason
        assert "\n" not in verdict.reason

    def test_an_equal_challenger_of_a_full_retrain_is_promoted(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        dataset = _dataset(bandit, tmp_path / "data", _rows((0, 1000)), (0, 1000))
        champion = _crown(bandit, settings, _train(bandit, settings, dataset, None, tmp_path / "old"), (0, 1000))
        policy = _train(bandit, settings, dataset, None, tmp_path / "new")
        verdict = evaluator.run(bandit, settings, dataset, policy, champion, True, tmp_path / "verdict")
        assert verdict.promote
        assert verdict.metrics["difference_dr"] == 0.0

    def test_a_champion_of_another_problem_is_no_reason_to_promote(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        dataset = _dataset(bandit, tmp_path / "data", _rows((0, 200)), (0, 200))
        champion = _crown(bandit, settings, _train(bandit, settings, dataset, None, tmp_path / "old"), (0, 200))
        problem = bandit.problem.model_copy(update={"observation_version": "users-v2"})
        changed = bandit.model_copy(update={"problem": problem})
        again = _dataset(changed, tmp_path / "again", _rows((0, 200)), (0, 200))
        policy = _train(changed, settings, again, None, tmp_path / "new")
        with pytest.raises(PolicyError, match="answers another problem: its observation_version is 'users-v1'"):
            evaluator.run(changed, settings, again, policy, champion, True, tmp_path / "verdict")
        assert not (tmp_path / "verdict").exists()

    def test_too_few_rows_are_no_reason_to_promote(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        good = _dataset(bandit, tmp_path / "good", _rows((0, 100)), (0, 100))
        champion = _crown(bandit, settings, _train(bandit, settings, good, None, tmp_path / "old"), (0, 100))
        one = _dataset(bandit, tmp_path / "one", _rows((100, 101)), (100, 101))
        policy = _train(bandit, settings, one, champion, tmp_path / "new")
        assert not evaluator.run(bandit, settings, one, policy, champion, False, tmp_path / "verdict").promote


class TestPropensities:
    """Whatever a policy seems to earn, nobody is promoted on weights that don't average to 1."""

    @pytest.mark.parametrize(
        ("wrong", "cause"),
        [
            (lambda p: np.ones_like(p), "all propensities are 1: was the log made by a deterministic rule?"),
            (lambda p: np.full_like(p, 0.9), "all propensities are 0.9: were they written afterwards"),
            (lambda p: np.minimum(1, p * np.linspace(2, 4, len(p))), "they are too large"),
            (lambda p: p * np.linspace(0.5, 1, len(p)), "they are too small"),
        ],
    )
    @pytest.mark.parametrize("rival", [False, True])
    def test_that_contradict_the_log_promote_nobody(
        self, bandit: Bandit, settings: Settings, tmp_path: Path, wrong: Any, cause: str, rival: bool
    ) -> None:
        champion = None
        if rival:
            small = _dataset(bandit, tmp_path / "small", _rows((0, 20)), (0, 20))
            champion = _crown(bandit, settings, _train(bandit, settings, small, None, tmp_path / "old"), (0, 20))
        rows = _rows((20, 4020))
        dataset = _dataset(bandit, tmp_path / "data", replace(rows, propensity=wrong(rows.propensity)), (20, 4020))
        policy = _train(bandit, settings, dataset, champion, tmp_path / "new")
        verdict = evaluator.run(bandit, settings, dataset, policy, champion, False, tmp_path / "verdict")
        assert not verdict.promote
        assert "the propensities contradict the log (mean weight" in verdict.reason
        assert cause in verdict.reason
        assert Verdict.load(tmp_path / "verdict") == verdict

    def test_that_are_true_are_among_the_figures(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        small = _dataset(bandit, tmp_path / "small", _rows((0, 20)), (0, 20))
        champion = _crown(bandit, settings, _train(bandit, settings, small, None, tmp_path / "old"), (0, 20))
        dataset = _dataset(bandit, tmp_path / "data", _rows((20, 4020), restricted=True), (20, 4020))
        policy = _train(bandit, settings, dataset, champion, tmp_path / "new")
        verdict = evaluator.run(bandit, settings, dataset, policy, champion, False, tmp_path / "verdict")
        assert verdict.promote
        for who in ("uniform", "champion"):
            assert abs(verdict.metrics[f"{who}_weight"] - 1) <= 4 * verdict.metrics[f"{who}_weight_error"]
            assert abs(verdict.metrics[f"{who}_weight_z"]) < 4


class TestAnEstimate:
    def test_that_no_reward_can_reach_promotes_nobody(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        """Clicks without their zeros: every reward is the highest, and the model adds to it."""
        rows = _rows((0, 400))
        bounded = bandit.model_copy(update={"problem": bandit.problem.model_copy(update={"reward_max": 0.5})})
        dataset = _dataset(bounded, tmp_path / "data", rows, (0, 400))
        policy = _train(bounded, settings, dataset, None, tmp_path / "policy")
        verdict = evaluator.run(bounded, settings, dataset, policy, None, False, tmp_path / "verdict")
        assert not verdict.promote
        assert "is outside reward_min..reward_max (-50..0.5)" in verdict.reason


class TestAnImportedLog:
    """Who made it is the rival of the first policy."""

    def log(self, bandit: Bandit, settings: Settings, out: Path, version: str, noise: bool) -> tuple[Bandit, Path]:
        """Logged by a good policy that explores a little; `noise`: rewards that teach nothing of the actions."""
        open_to = bandit.model_copy(update={"validation": Validation(other_policies=("old-system",))})
        n, rng = 1500, np.random.default_rng(7)
        observation = rng.standard_normal((n, DIM)).astype(np.float32)
        served = probabilities(observation @ TRUTH.T, None, 0.2)
        action = (served.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1).astype(np.int32)
        reward = np.einsum("nd,nd->n", observation, TRUTH[action])
        shown = rng.standard_normal((n, DIM)).astype(np.float32) if noise else observation
        rows = Rows(
            np.arange(1, n + 1),
            shown,
            action,
            reward.astype(np.float32),
            served[np.arange(n), action],
            np.ones((n, K), bool),
        )
        store = open_backend(open_to, settings).store()
        made = [decision(f"e{seq}", 0, seq, "import-1") | {"policy_version": version} for seq in range(1, n + 1)]
        store.append("decisions", decisions(*made))
        store.append(
            "rewards", rewards(*(reward_of(f"e{seq}", 1, seq, producer="import-1") for seq in range(1, n + 1)))
        )
        store.joiner(open_to).run(None)
        return open_to, _dataset(open_to, out, rows, (0, n))

    @pytest.mark.parametrize(("noise", "promoted"), [(False, True), (True, False)])
    def test_has_its_own_policy_for_a_rival(
        self, bandit: Bandit, settings: Settings, tmp_path: Path, noise: bool, promoted: bool
    ) -> None:
        open_to, dataset = self.log(bandit, settings, tmp_path / "data", "old-system", noise)
        policy = _train(open_to, settings, dataset, None, tmp_path / "policy")
        verdict = evaluator.run(open_to, settings, dataset, policy, None, True, tmp_path / "verdict")
        assert verdict.promote is promoted, verdict.reason
        assert "that whoever made the log has earned on 1500 rows" in verdict.reason
        assert (verdict.metrics["difference_dr_high"] < 0) is not promoted
        assert ("movielens_rollback" in verdict.reason) is not promoted

    def test_of_a_uniform_policy_has_none(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        open_to, dataset = self.log(bandit, settings, tmp_path / "data", "uniform", noise=True)
        policy = _train(open_to, settings, dataset, None, tmp_path / "policy")
        verdict = evaluator.run(open_to, settings, dataset, policy, None, True, tmp_path / "verdict")
        assert verdict.promote
        assert "no champion yet" in verdict.reason


class TestTheEstimate:
    def test_is_not_flattered_by_rewards_that_are_pure_noise(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        """Judged on its own training rows, a policy of 60 noisy rows would seem to earn far more than the true 0."""
        values = []
        for low in range(0, 6000, 60):
            window = (low, low + 60)
            dataset = _dataset(bandit, tmp_path / f"data-{low}", _rows(window, sign=0.0), window)
            policy = _train(bandit, settings, dataset, None, tmp_path / f"policy-{low}")
            verdict = evaluator.run(bandit, settings, dataset, policy, None, False, tmp_path / f"verdict-{low}")
            values.append(verdict.metrics["challenger_dr"])
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))

    def test_respects_the_eligible_actions_of_each_row(
        self, bandit: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        rows = _rows((0, 4000), restricted=True)
        dataset = _dataset(bandit, tmp_path / "data", rows, (0, 4000))
        policy = _train(bandit, settings, dataset, None, tmp_path / "policy")
        verdict = evaluator.run(bandit, settings, dataset, policy, None, False, tmp_path / "verdict")
        learnt = LinUCB.of(accumulate(rows.observation, rows.action, rows.reward, K), 0.1, 0.01)
        served = probabilities(learnt.scores(rows.observation), rows.eligible, bandit.serving.epsilon)
        true = float((served * (rows.observation @ TRUTH.T)).sum(axis=1).mean())
        assert verdict.metrics["challenger_dr_low"] < true < verdict.metrics["challenger_dr_high"]

    def test_uses_statistics_without_the_fold_it_judges(self, bandit: Bandit, tmp_path: Path) -> None:
        rows = _rows((0, 500))
        dataset = Dataset.open(_dataset(bandit, tmp_path, rows, (0, 200), (200, 500)))
        blocks = make_blocks(dataset, 0.0)
        left: NDArray[np.intp] = np.flatnonzero((rows.seq % 5 != 2) | (rows.seq > 200))
        expected = accumulate(rows.observation[left], rows.action[left], rows.reward[left], K)
        got = statistics_without(blocks, [(0, 200)], 2, bandit.problem.actions)
        assert np.abs(got.a - expected.a).max() < 1e-9
        assert np.array_equal(got.n, expected.n)


@pytest.mark.parametrize("rows", [1, MIN_ROWS - 1])
def test_a_handful_of_rows_is_too_few_to_judge(bandit: Bandit, settings: Settings, tmp_path: Path, rows: int) -> None:
    dataset = _dataset(bandit, tmp_path / "data", _rows((0, rows)), (0, rows))
    policy = _train(bandit, settings, dataset, None, tmp_path / "policy")
    verdict = evaluator.run(bandit, settings, dataset, policy, None, False, tmp_path / "verdict")
    assert verdict.promote
    assert verdict.reason == f"too few rows to judge: {rows}, at least 10 are needed"


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"promote": "perhaps"}'])
def test_what_is_not_a_verdict_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "verdict.json").write_bytes(content)
    with pytest.raises(DataError, match=r"verdict\.json: not a verdict"):
        Verdict.load(tmp_path)
