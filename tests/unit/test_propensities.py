"""The test of propensities: sound logs pass, however few or heavy-tailed; false ones are found."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.bandit.exploration import probabilities
from rl_core.bandit.ope import LoggedRows
from rl_core.bandit.propensities import MATERIAL, MeanWeight, contradiction, mean_uniform_weight, mean_weight

FLOOR = 0.05


def everything(n: int, k: int) -> NDArray[np.bool_]:
    return np.ones((n, k), np.bool_)


def uniform(eligible: NDArray[np.bool_]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = eligible / eligible.sum(axis=1, keepdims=True)
    return shares


def logged(actions: NDArray[np.int64], propensities: NDArray[np.float64]) -> LoggedRows:
    return LoggedRows(actions, np.zeros(len(actions)), propensities)


class TestASoundLog:
    @pytest.mark.parametrize("n", [2, 5, 20, 100, 1000])
    @pytest.mark.parametrize("k", [2, 20])
    @pytest.mark.parametrize("epsilon", [FLOOR, 0.3, 1.0])
    def test_passes_though_it_has_not_explored_yet(self, n: int, k: int, epsilon: float) -> None:
        """A hundred logs each: of those without exploration the weights are all alike, and far from 1."""
        rng = np.random.default_rng([n, k])
        for _ in range(100):
            scores = rng.standard_normal((n, k))
            p = probabilities(scores, None, epsilon)
            action = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
            rows = logged(action, p[np.arange(n), action])
            near = probabilities(scores + rng.standard_normal((n, k)), None, FLOOR)
            for evaluation in (uniform(everything(n, k)), near, p):
                found = mean_weight(rows, evaluation, FLOOR)
                assert abs(found.z) < 4.5
                assert not found.contradicts

    def test_has_weights_of_mean_1_also_where_actions_are_barred(self) -> None:
        rng = np.random.default_rng(1)
        eligible = rng.random((20_000, 4)) < 0.6
        eligible[~eligible.any(axis=1)] = True
        p = probabilities(rng.standard_normal(eligible.shape), eligible, 0.3)
        action = (p.cumsum(axis=1) > rng.random((len(p), 1))).argmax(axis=1)
        rows = logged(action, p[np.arange(len(p)), action])
        found = mean_uniform_weight(rows.propensities, eligible.sum(axis=1), FLOOR)
        assert found.mean == pytest.approx(mean_weight(rows, uniform(eligible), FLOOR).mean, rel=1e-12)
        assert abs(found.mean - 1) < 4 * found.standard_error

    def test_with_one_eligible_action_is_certain(self) -> None:
        rows, only = logged(np.zeros(50, np.int64), np.ones(50)), np.eye(3, dtype=np.bool_)[np.zeros(50, np.int64)]
        assert mean_weight(rows, uniform(only), FLOOR) == MeanWeight(1.0, 0.0, 0.0)


class TestAFalseLog:
    @pytest.mark.parametrize(("n", "k"), [(2, 2), (30, 4), (4000, 20)])
    def test_of_propensities_that_are_all_1_is_found_in_any_number_of_rows(self, n: int, k: int) -> None:
        rows = logged(np.random.default_rng(2).integers(0, k, n), np.ones(n))
        found = mean_weight(rows, uniform(everything(n, k)), FLOOR)
        assert found.contradicts
        assert "all propensities are 1: was the log made by a deterministic rule?" in contradiction(
            rows.propensities, found
        )
        assert f"mean weight {1 / k:.2f} ± 0.00, must be 1" in contradiction(rows.propensities, found)

    @pytest.mark.parametrize("k", [4, 20])
    def test_of_one_number_for_all_is_found_in_a_thousand(self, k: int) -> None:
        rows = logged(np.random.default_rng(3).integers(0, k, 1000), np.full(1000, 0.9))
        assert mean_weight(rows, uniform(everything(1000, k)), FLOOR).contradicts

    @pytest.mark.parametrize("factor", [0.5, 1.5])
    def test_of_propensities_off_by_a_factor_is_found(self, factor: float) -> None:
        rng = np.random.default_rng(4)
        p = probabilities(rng.standard_normal((8000, 4)), None, 0.4)
        action = (p.cumsum(axis=1) > rng.random((8000, 1))).argmax(axis=1)
        rows = logged(action, np.minimum(1.0, p[np.arange(8000), action] * factor))
        found = mean_weight(rows, uniform(everything(8000, 4)), FLOOR)
        assert found.contradicts
        assert (found.mean > 1) is (factor < 1)


def test_a_deviation_that_is_sure_but_small_is_none() -> None:
    """Propensities rounded to two places, in ten million rows."""
    assert not MeanWeight(1 + 0.9 * MATERIAL, 1e-4, 400.0).contradicts
    assert MeanWeight(1 + 1.1 * MATERIAL, 1e-4, 500.0).contradicts
