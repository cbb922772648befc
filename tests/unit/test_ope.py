"""Off-policy estimators on rows small enough to compute by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.bandit.ope import Estimate, LoggedRows, dm, dr, ips, paired_difference, snips
from rl_core.errors import DataError, SchemaError

Array = NDArray[np.float64]

ACTIONS = np.array([0, 1, 1])
REWARDS = np.array([1.0, 2.0, 4.0])
PROPENSITIES = np.array([0.5, 0.25, 0.5])
LOGGED = LoggedRows(ACTIONS, REWARDS, PROPENSITIES)
EVALUATION = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])  # weights 2, 2, 2
MEANS = np.array([[1.0, 0.0], [1.0, 3.0], [2.0, 2.0]])


def test_ips_is_the_weighted_mean() -> None:
    assert ips(LOGGED, EVALUATION).value == pytest.approx((2 + 4 + 8) / 3)


def test_snips_divides_by_the_weights() -> None:
    assert snips(LOGGED, EVALUATION).value == pytest.approx((2 + 4 + 8) / 6)


def test_dm_asks_the_model_only() -> None:
    assert dm(LOGGED, EVALUATION, MEANS).value == pytest.approx((1 + 2 + 2) / 3)


def test_dr_corrects_the_model_by_its_weighted_residuals() -> None:
    assert dr(LOGGED, EVALUATION, MEANS).value == pytest.approx((1 + 2 + 2) / 3 + (0 - 2 + 4) / 3)


def test_dr_with_an_exact_model_has_no_noise_left() -> None:
    exact = dr(LOGGED, np.full((3, 2), 0.5), np.tile(REWARDS[:, None], (1, 2)))
    assert exact.terms.tolist() == REWARDS.tolist()


def test_on_policy_rows_give_back_their_mean() -> None:
    on_policy = LoggedRows(ACTIONS, REWARDS, np.full(3, 0.5))
    for estimate in (ips(on_policy, np.full((3, 2), 0.5)), snips(on_policy, np.full((3, 2), 0.5))):
        assert estimate.value == pytest.approx(REWARDS.mean())
        assert estimate.standard_error == pytest.approx(REWARDS.std(ddof=1) / np.sqrt(3))
        assert estimate.effective_sample_size == pytest.approx(3)


def test_the_interval_is_students() -> None:
    estimate = ips(LOGGED, EVALUATION, confidence=0.9)  # three equal weights: 2 degrees of freedom
    reach = 2.920 * estimate.standard_error
    assert (estimate.low, estimate.high) == pytest.approx((estimate.value - reach, estimate.value + reach), abs=1e-3)


def test_a_few_rows_of_great_weight_count_as_few() -> None:
    rows = LoggedRows(np.zeros(100, int), np.arange(100.0), np.where(np.arange(100) < 6, 0.01, 1.0))
    estimate = ips(rows, np.ones((100, 1)))
    assert estimate.effective_sample_size == pytest.approx(8, abs=0.02)
    assert (estimate.high - estimate.value) / estimate.standard_error == pytest.approx(2.365, abs=0.01)


def test_the_effective_sample_size_is_kishs() -> None:
    greedy = np.tile([0.0, 1.0], (3, 1))  # weights 0, 4, 2
    assert ips(LOGGED, greedy).effective_sample_size == pytest.approx(6**2 / (4**2 + 2**2))


def test_terms_have_the_estimate_as_their_mean() -> None:
    for estimate in (ips(LOGGED, EVALUATION), snips(LOGGED, EVALUATION), dr(LOGGED, EVALUATION, MEANS)):
        assert estimate.terms.mean() == pytest.approx(estimate.value)


class TestPairedDifference:
    def test_of_a_policy_with_itself_is_exactly_zero(self) -> None:
        difference = paired_difference(ips(LOGGED, EVALUATION), ips(LOGGED, EVALUATION))
        assert (difference.value, difference.standard_error) == (0.0, 0.0)

    def test_is_narrower_than_the_two_apart(self) -> None:
        rng = np.random.default_rng(0)
        rows = LoggedRows(rng.integers(0, 2, 1000), rng.normal(5, 1, 1000), np.full(1000, 0.5))
        one = ips(rows, np.tile([0.6, 0.4], (1000, 1)))
        other = ips(rows, np.tile([0.5, 0.5], (1000, 1)))
        difference = paired_difference(one, other)
        assert difference.value == pytest.approx(one.value - other.value)
        assert difference.standard_error < 0.8 * np.hypot(one.standard_error, other.standard_error)
        assert difference.estimator == "IPS - IPS"

    def test_needs_the_same_rows(self) -> None:
        fewer = LoggedRows(ACTIONS[:2], REWARDS[:2], PROPENSITIES[:2])
        with pytest.raises(SchemaError, match="can't be paired"):
            paired_difference(ips(LOGGED, EVALUATION), ips(fewer, EVALUATION[:2]))


class TestWhatIsRefused:
    @pytest.mark.parametrize("propensity", [0.0, -0.1, 1.1, np.nan, np.inf])
    def test_a_propensity_outside_its_range(self, propensity: float) -> None:
        with pytest.raises(SchemaError, match=r"row 1 \(1 of 3\): propensity is .*must lie in \(0, 1\]"):
            LoggedRows(ACTIONS, REWARDS, np.array([0.5, propensity, 1.0]))

    def test_a_reward_that_is_not_finite(self) -> None:
        with pytest.raises(SchemaError, match=r"row 2 \(1 of 3\): reward is nan"):
            LoggedRows(ACTIONS, np.array([1.0, 2.0, np.nan]), PROPENSITIES)

    def test_fewer_than_two_rows(self) -> None:
        with pytest.raises(SchemaError, match="got 1 rows"):
            LoggedRows(ACTIONS[:1], REWARDS[:1], PROPENSITIES[:1])

    def test_columns_of_different_lengths(self) -> None:
        with pytest.raises(SchemaError, match="lengths differ"):
            LoggedRows(ACTIONS, REWARDS[:2], PROPENSITIES)

    @pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [np.nan, 1.0]])
    def test_probabilities_that_are_none(self, row: list[float]) -> None:
        with pytest.raises(SchemaError, match="sum of evaluation probabilities"):
            ips(LOGGED, np.array([[1.0, 0.0], row, [0.0, 1.0]]))

    def test_an_action_that_the_evaluation_policy_doesnt_know(self) -> None:
        with pytest.raises(SchemaError, match=r"logged actions span 0\.\.1; the evaluation policy knows 0\.\.0"):
            ips(LOGGED, np.ones((3, 1)))

    def test_probabilities_of_another_number_of_rows(self) -> None:
        with pytest.raises(SchemaError, match=r"shape \(2, 2\); expected \(3, K\)"):
            ips(LOGGED, EVALUATION[:2])

    @pytest.mark.parametrize("estimator", [dm, dr])
    def test_means_that_are_not_finite(self, estimator: Callable[[LoggedRows, Array, Array], Estimate]) -> None:
        with pytest.raises(SchemaError, match=r"row 1 \(1 of 3\): model mean is inf") as error:
            estimator(LOGGED, EVALUATION, np.array([[1.0, 0.0], [0.0, np.inf], [0.0, 0.0]]))
        assert "\n" not in str(error.value)

    def test_means_of_another_shape(self) -> None:
        with pytest.raises(SchemaError, match=r"expected \(3, 2\)"):
            dm(LOGGED, EVALUATION, MEANS[:, :1])

    def test_a_policy_the_log_says_nothing_about(self) -> None:
        with pytest.raises(DataError, match="this log says nothing about it"):
            snips(LoggedRows(np.zeros(3, dtype=int), REWARDS, PROPENSITIES), np.tile([0.0, 1.0], (3, 1)))
