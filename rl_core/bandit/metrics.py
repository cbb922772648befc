"""The value of a policy over all users of a world whose noise-free rewards `expected` [U, K] are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl_core.errors import DataError

Array = NDArray[np.float64]


def expected_reward(expected: Array, probabilities: Array) -> float:
    """Average the reward of a policy over users: (1/U) Σ_u Σ_k expected[u, k] probabilities[u, k]."""
    return float(np.einsum("uk,uk->u", expected, probabilities).mean())


def random_value(expected: Array) -> float:
    """Average the reward of the uniform random policy: the mean of all cells."""
    return float(expected.mean())


def oracle_value(expected: Array) -> float:
    """Average the reward of always taking each user's best action: (1/U) Σ_u max_k expected[u, k]."""
    return float(expected.max(axis=1).mean())


def best_fixed_value(expected: Array) -> float:
    """Average the reward of the best policy that gives everybody the same action: max_k (1/U) Σ_u expected[u, k]."""
    return float(expected.mean(axis=0).max())


def pct_of_gap(expected: Array, probabilities: Array) -> float:
    """Place a policy between uniform random (0) and the oracle (100), in percent; worse than random is negative."""
    return pct_of_gap_of_value(expected, expected_reward(expected, probabilities))


def pct_of_gap_of_value(expected: Array, value: float) -> float:
    """Place a mean reward as `pct_of_gap` does: 100 (value - random) / (oracle - random).

    Raises:
        DataError: no action is better than another, so there is no gap.
    """
    low, high = random_value(expected), oracle_value(expected)
    if not high > low:
        raise DataError(f"random and oracle both earn {low}: every action pays the same, there is no gap to measure")
    return 100.0 * (value - low) / (high - low)
