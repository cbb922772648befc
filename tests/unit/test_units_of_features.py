"""The unit of a feature or of a reward decides nothing: seconds or days, cents or millions, the same is learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rl_core.bandit.linucb import LinUCB, Statistics, accumulate, dependent
from rl_core.policy.probes import check_probes, make_probes

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4000, 3))
ACTION = RNG.integers(0, 4, 4000)
TRUTH = RNG.standard_normal((4, 3))
REWARD = np.einsum("nd,nd->n", X, TRUTH[ACTION]) + RNG.standard_normal(4000)
UNITS = [np.array([1.0, 1.0, 1.0]), np.array([1e-4, 1e6, 3600.0]), np.array([1e-30, 1e30, 1e12])]


def _policy(x: np.ndarray, reward: np.ndarray, alpha: float = 0.2, weight: float = 0.01) -> LinUCB:
    statistics = accumulate(x, ACTION, reward, 4)
    return LinUCB.of(statistics, alpha, weight, statistics.scale)


@pytest.mark.parametrize("unit", UNITS, ids=str)
@pytest.mark.parametrize("weight", [0.01, 10.0, 1e-300])
def test_of_a_feature_changes_no_score(unit: np.ndarray, weight: float) -> None:
    expected = _policy(X, REWARD, weight=weight).scores(X[:100])
    assert _policy(X * unit, REWARD, weight=weight).scores(X[:100] * unit) == pytest.approx(
        expected, rel=1e-6, abs=1e-9
    )


@pytest.mark.parametrize("unit", [1e-4, 1e6])
def test_of_the_reward_scales_what_is_expected(unit: float) -> None:
    expected = _policy(X, REWARD, alpha=0.0).scores(X[:100])
    assert _policy(X, REWARD * unit, alpha=0.0).scores(X[:100]) == pytest.approx(expected * unit, rel=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_of_the_reward_does_not_blunt_a_probe(unit: float, tmp_path: Path) -> None:
    policy = _policy(X, REWARD * unit, alpha=0.0)
    probes = make_probes(policy, X)
    assert probes.clear
    check_probes(tmp_path, probes, policy)
    with pytest.raises(Exception, match="scores"):
        check_probes(tmp_path, probes, _policy(X, REWARD * unit * 1.00001, alpha=0.0))


def test_without_a_scale_lambda_is_absolute() -> None:
    statistics = accumulate(X, ACTION, REWARD, 4)
    expected = np.linalg.solve(statistics.a[0] + 7.0 * np.eye(3), statistics.b[0])
    assert LinUCB.of(statistics, 0.2, 7.0).theta[0] == pytest.approx(expected)


class TestSolving:
    @pytest.mark.parametrize("weight", [1e-300, 1e-12, 0.01])
    @pytest.mark.parametrize(
        "dependent_on",
        [lambda x: x[:, 0], lambda x: x[:, 0] + x[:, 1], lambda x: np.ones(len(x)) * 5, lambda x: np.zeros(len(x))],
        ids=["twice the same", "a sum", "a constant", "always 0"],
    )
    def test_dependent_or_constant_features_is_a_policy(self, dependent_on, weight: float) -> None:  # type: ignore[no-untyped-def]
        wide = np.column_stack([X, dependent_on(X)])
        policy = _policy(wide, REWARD, weight=weight)
        best = (policy.means(wide).argmax(axis=1) == (X @ TRUTH.T).argmax(axis=1)).mean()
        assert np.isfinite(policy.scores(wide)).all()
        assert best > 0.95

    def test_an_action_without_rows_has_the_prior(self) -> None:
        statistics = accumulate(X, ACTION % 3, REWARD, 4)
        policy = LinUCB.of(statistics, 1.0, 1e-300, statistics.scale)
        assert policy.means(X[:5])[:, 3].tolist() == [0] * 5

    def test_names_the_features_that_add_nothing(self) -> None:
        wide = np.column_stack([X, X[:, 0] - 2 * X[:, 2], np.zeros(len(X)), RNG.standard_normal(len(X)) * 1e6])
        assert dependent(accumulate(wide, ACTION, REWARD, 4)) == [3, 4]
        assert dependent(Statistics.zeros(4, 2)) == [0, 1]
