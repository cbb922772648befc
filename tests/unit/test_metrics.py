"""Between uniform random (0) and the oracle (100)."""

from __future__ import annotations

import numpy as np
import pytest

from rl_core.bandit.metrics import best_fixed_value, expected_reward, oracle_value, pct_of_gap, random_value
from rl_core.errors import DataError

EXPECTED = np.array([[0.0, 4.0], [2.0, 0.0], [3.0, 3.0]])


def test_the_three_reference_values() -> None:
    assert (random_value(EXPECTED), oracle_value(EXPECTED), best_fixed_value(EXPECTED)) == (2.0, 3.0, 7 / 3)


def test_uniform_random_is_0_the_oracle_100_the_worst_policy_below_0() -> None:
    best = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert pct_of_gap(EXPECTED, np.full((3, 2), 0.5)) == 0.0
    assert pct_of_gap(EXPECTED, best) == 100.0
    assert pct_of_gap(EXPECTED, 1 - best) == pytest.approx(-100.0)


def test_expected_reward_weighs_actions_by_probability() -> None:
    assert expected_reward(EXPECTED, np.array([[0.75, 0.25], [1.0, 0.0], [0.5, 0.5]])) == pytest.approx((1 + 2 + 3) / 3)


def test_no_gap_is_an_error() -> None:
    with pytest.raises(DataError, match="every action pays the same"):
        pct_of_gap(np.ones((3, 2)), np.full((3, 2), 0.5))
