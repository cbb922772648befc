"""How good a policy is in an environment whose noise-free rewards `expected` [U, K] are known, over all users."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl_core.errors import DataError

Array = NDArray[np.float64]


def expected_reward(expected: Array, probabilities: Array) -> float:
    """Mean reward of a policy that takes actions with `probabilities` [U, K], each user equally often."""
    return float(np.einsum("uk,uk->u", expected, probabilities).mean())


def random_value(expected: Array) -> float:
    """Mean reward of the uniform random policy."""
    return float(expected.mean())


def oracle_value(expected: Array) -> float:
    """Mean reward of always taking each user's best action."""
    return float(expected.max(axis=1).mean())


def best_fixed_value(expected: Array) -> float:
    """Mean reward of the best policy that gives everybody the same action."""
    return float(expected.mean(axis=0).max())


def pct_of_gap(expected: Array, probabilities: Array) -> float:
    """Where the policy stands between uniform random (0) and the oracle (100); worse than random is negative."""
    return pct_of_gap_of_value(expected, expected_reward(expected, probabilities))


def pct_of_gap_of_value(expected: Array, value: float) -> float:
    """`pct_of_gap` of a mean reward. Raises DataError where no action is better than another, so there is no gap."""
    low, high = random_value(expected), oracle_value(expected)
    if not high > low:
        raise DataError(f"random and oracle both earn {low}: every action pays the same, there is no gap to measure")
    return 100.0 * (value - low) / (high - low)
