"""Tests whether logged propensities can be true, from the log alone.

Of any fixed evaluation policy π the importance weights w_i = π(a_i|x_i) / p_i have mean 1 where p_i is the probability
with which a_i was drawn: E[w|x] = Σ_a p(a|x) π(a|x) / p(a|x) = 1. A mean that is far from it contradicts the log.

A sample's standard error s/√n is no measure of "far" where weights are rare and large (an ε-greedy log before it has
explored seems certain of a mean of 0.05). So z allows for what may not have been seen: were the true mean 1, the
deviation d would be carried by weights up to the largest possible one, B, which adds |d| B to the variance; for rare
weights that is the score test of a Poisson count. A row whose p is 1 leaves nothing unseen and adds none.

Reference: Li, Chen, Kleban, Gupta (2014), "Counterfactual Estimation and Optimization of Click Metrics for Search
Engines", arXiv:1403.1891.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_core.bandit.ope import Array, LoggedRows, weights

Z_LIMIT = 5.0
"""A false alarm in 2 million sound logs, were z normal; of 140,400 simulated ones (2 to 3,000 rows, 2 to 20 actions, ε
of 0.05 and more) none was beyond 3.4. Logs whose propensities go below ε/K of the bandit ring more often when short."""
MATERIAL = 0.05
"""A mean within 1 ± 0.05 passes, however sure it is: IPS of a constant reward would be off by as much."""
_LEAST_ERROR = 1e-3  # a smaller one says no more, and keeps z readable
_SURELY = 1e-9


@dataclass(frozen=True)
class MeanWeight:
    """The mean of n importance weights, its standard error, and how many cautious standard errors it is from 1."""

    mean: float
    standard_error: float
    z: float

    @property
    def contradicts(self) -> bool:
        return abs(self.z) > Z_LIMIT and abs(self.mean - 1.0) > MATERIAL


def mean_weight(logged: LoggedRows, evaluation: Array, epsilon: float) -> MeanWeight:
    """Average the importance weights of an evaluation policy with probabilities [n, K] that did not see these rows.

    Args:
        epsilon: the least exploration that a log is expected to have; of it comes the largest possible weight.

    Raises:
        SchemaError: `evaluation` doesn't fit the rows, or is no distribution.
    """
    count, likeliest = (evaluation > 0).sum(axis=1), evaluation.max(axis=1)
    return _mean(weights(logged, evaluation), logged.propensities, count, likeliest, epsilon)


def mean_uniform_weight(propensities: Array, eligible: NDArray[np.integer[Any]], epsilon: float) -> MeanWeight:
    """Average the weights of the uniform policy: propensities [n] where so many actions [n] were eligible."""
    return _mean(1.0 / (eligible * propensities), propensities, eligible, 1.0 / eligible, epsilon)


def _mean(w: Array, p: Array, count: NDArray[np.integer[Any]], likeliest: Array, epsilon: float) -> MeanWeight:
    mean, spread = float(w.mean()), float(w.var(ddof=1))
    left = 1.0 - p
    possible = likeliest * np.maximum(count / epsilon, (count - 1) / np.maximum(left, _SURELY))
    unseen = np.where(left > _SURELY, np.maximum(possible, w), 0.0)
    cautious = np.sqrt((spread + abs(mean - 1.0) * float(unseen.mean())) / len(w))
    return MeanWeight(mean, float(np.sqrt(spread / len(w))), (mean - 1.0) / max(float(cautious), _LEAST_ERROR))


def contradiction(p: Array, found: MeanWeight) -> str:
    """Say, of a mean weight that contradicts the log's propensities, by how much and what the likely cause is."""
    if (p > 1.0 - _SURELY).all():
        cause = "all propensities are 1: was the log made by a deterministic rule?"
    elif p.max() - p.min() < _SURELY:
        cause = f"all propensities are {p[0]:.4g}: were they written afterwards, or for another number of actions?"
    elif found.mean < 1.0:
        cause = (
            "they are too large, actions count as eligible that could not be chosen, or rows that explored are missing"
        )
    else:
        cause = "they are too small, belong to other actions, or rows of likely actions are missing"
    return (
        f"the propensities contradict the log (mean weight {found.mean:.2f} ± {found.standard_error:.2f}, must be 1): "
        f"{cause}"
    )
