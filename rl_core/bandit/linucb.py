"""LinUCB with disjoint linear models, in closed form: training is a sum, and a policy is solved from it.

For each of K actions a, over the rows (x, r, w) where a was taken (observation, reward, weight):

    A_a = Σ w x xᵀ    b_a = Σ w r x    θ_a = (A_a + λI)⁻¹ b_a
    score_a(x) = θ_a·x + α √(xᵀ (A_a + λI)⁻¹ x)

λ is `tikhonov_weight`, α is `agent_alpha`. λ is added when solving, so the half-life never discounts it. With a `scale`
s [d] it is relative to the features' size: λ s_j² stands in place of λ for coordinate j, so that the unit of a feature
(seconds or days) makes no difference to what is learnt. Without one it is TF-Agents' absolute λ.
Li, Chu, Langford, Schapire (2010), "A contextual-bandit approach to personalized news article recommendation", WWW,
algorithm 1: there λ = 1 and w = 1. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_core.bandit.npz import halved, read_sums, write_npz
from rl_core.errors import PolicyError

Array = NDArray[np.float64]

_ROUNDING = 1e-6  # of an eigenvalue, relative to the largest: far above what float64 loses
_DEPENDENT = 1e-9  # of a feature's mean square: what is left of it is rounding
_CHUNK = 32_768  # rows sorted and multiplied at a time: they stay in the second-level cache


@dataclass(frozen=True, eq=False)
class Statistics:
    """The sufficient statistics of LinUCB: a [K, d, d] = Σ w x xᵀ, b [K, d] = Σ w r x, n [K] = Σ w, per action."""

    a: Array
    b: Array
    n: Array

    @classmethod
    def zeros(cls, num_actions: int, dim: int) -> Statistics:
        """Return the statistics of no rows."""
        return cls(np.zeros((num_actions, dim, dim)), np.zeros((num_actions, dim)), np.zeros(num_actions))

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.a + other.a, self.b + other.b, self.n + other.n)

    def aligned(self, own: Sequence[str], wanted: Sequence[str]) -> Statistics:
        """Reorder the actions from the ids `own` to the ids `wanted`; one that is not among its own has no rows.

        Raises:
            PolicyError: it has another number of actions than `own`.
        """
        if len(own) != len(self.n):
            raise PolicyError(f"{len(own)} action ids are given to statistics of {len(self.n)} actions")
        if tuple(own) == tuple(wanted):
            return self
        at = {action: index for index, action in enumerate(own)}
        there = np.asarray([index for index, action in enumerate(wanted) if action in at], np.intp)
        mine = np.asarray([at[action] for action in wanted if action in at], np.intp)
        found = Statistics.zeros(len(wanted), self.b.shape[1])
        for name in ("a", "b", "n"):
            getattr(found, name)[there] = getattr(self, name)[mine]
        return found

    @property
    def scale(self) -> Array:
        """The size of each feature over all rows, [d]: the root of its mean square; 1 where it was always 0."""
        squares = np.einsum("kii->i", self.a) / max(float(self.n.sum()), np.finfo(float).tiny)
        return np.where(squares > 0, np.sqrt(squares), 1.0)

    def scaled(self, weight: float) -> Statistics:
        """Multiply the weight of every row."""
        return Statistics(weight * self.a, weight * self.b, weight * self.n)

    def weighted(self, weights: Array) -> Statistics:
        """Multiply the weight of every row by that of its action, [K]."""
        return Statistics(weights[:, None, None] * self.a, weights[:, None] * self.b, weights * self.n)

    def save(self, path: Path) -> None:
        """Write a by halves, b and n as npz; equal statistics give equal bytes."""
        write_npz(path, {"half": halved(self.a), "b": self.b, "n": self.n})

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read statistics that `save` wrote. Raises PolicyError where the file holds none."""
        held = read_sums(path)
        statistics = cls(held["a"], held["b"], held["n"])
        statistics.check(path)
        return statistics

    def check(self, path: Path) -> None:
        """Raise PolicyError where what `path` held is not finite float64 of matching shapes."""
        num_actions, dim = self.b.shape if self.b.ndim == 2 else (0, 0)
        shapes = (self.a.shape, self.b.shape, self.n.shape)
        if shapes != ((num_actions, dim, dim), (num_actions, dim), (num_actions,)):
            raise PolicyError(f"{path}: a, b, n have shapes {shapes}; expected [K, d, d], [K, d], [K]")
        for name, held in (("a", self.a), ("b", self.b), ("n", self.n)):
            if held.dtype != np.float64 or not np.isfinite(held).all():
                raise PolicyError(f"{path}: {name} must hold finite float64 numbers; train the policy again")


def dependent(statistics: Statistics) -> list[int]:
    """Find the features that add nothing to those before them: always 0, or sums of them, over all rows and actions.

    By a Cholesky factorisation of the features' second moments, brought to one size: what is left of one after the
    others have explained it is below what rounding makes.
    """
    scale = statistics.scale
    left = statistics.a.sum(axis=0) / np.multiply.outer(scale, scale) / max(float(statistics.n.sum()), 1.0)
    found = []
    for j in range(len(left)):
        if left[j, j] < _DEPENDENT:
            found.append(j)
            continue
        column = left[j + 1 :, j] / left[j, j]
        left[j + 1 :, j + 1 :] -= np.outer(column, left[j, j + 1 :])
    return found


def accumulate(
    observations: NDArray[np.floating[Any]],
    actions: NDArray[np.integer[Any]],
    rewards: ArrayLike,
    num_actions: int,
    weights: ArrayLike | None = None,
) -> Statistics:
    """Sum up n rows as statistics.

    Args:
        observations: [n, d] float32 or float64.
        actions: [n] action indices.
        rewards: [n].
        weights: [n] ≥ 0; None: all 1.

    Raises:
        PolicyError: lengths differ, or an action lies outside 0..num_actions-1.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    weights = None if weights is None else np.asarray(weights, dtype=np.float64)
    total = len(actions)
    if not total == len(observations) == len(rewards) == (total if weights is None else len(weights)):
        raise PolicyError(f"{len(observations)} observations, {total} actions, {len(rewards)} rewards: lengths differ")
    check_range("actions", actions, num_actions)
    sums = Statistics.zeros(num_actions, observations.shape[1])
    narrow = actions.astype(np.min_scalar_type(num_actions))  # NumPy sorts 8- and 16-bit integers by radix
    for low in range(0, total, _CHUNK):
        rows = slice(low, low + _CHUNK)
        _add_rows(sums, observations[rows], narrow[rows], rewards[rows], None if weights is None else weights[rows])
    return sums


def check_range(name: str, indices: NDArray[np.integer[Any]], count: int) -> None:
    """Raise PolicyError where an index lies outside 0..count-1; `name` says whose indices they are."""
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise PolicyError(f"{name} span {indices.min()}..{indices.max()}; they must lie in 0..{count - 1}")


def _add_rows(
    sums: Statistics,
    observations: NDArray[np.floating[Any]],
    actions: NDArray[np.integer[Any]],
    rewards: Array,
    weights: Array | None,
) -> None:
    """Sort by action once, then one symmetric product per action; adds into `sums` in place."""
    order = np.argsort(actions, kind="stable")
    sorted_x = np.take(observations, order, axis=0).astype(np.float64, copy=False)
    sorted_r = rewards[order]
    if weights is not None:
        root = np.sqrt(weights[order])  # (√w x)(√w x)ᵀ is exactly symmetric, w x xᵀ is not
        sorted_x, sorted_r = sorted_x * root[:, None], sorted_r * root
    counts = np.bincount(actions, minlength=len(sums.n))
    ends = np.cumsum(counts)
    for action in np.flatnonzero(counts):
        own = slice(ends[action] - counts[action], ends[action])
        x = sorted_x[own]
        sums.a[action] += x.T @ x
        sums.b[action] += sorted_r[own] @ x
    sums.n[:] += counts if weights is None else np.bincount(actions, weights, minlength=len(sums.n))


class LinUCB:
    """The policy as it is solved: trainer, evaluator and server score with it.

    Attributes:
        theta: [K, d], the expected reward of action k is θ_k·x.
        root: R [K, d, d], |R_k x| is the width of its confidence bound: RᵀR = (A_k + λS²)⁻¹.
    """

    def __init__(self, theta: Array, root: Array, agent_alpha: float) -> None:
        self.agent_alpha = agent_alpha
        self.num_actions, self.dim = theta.shape
        self.theta = theta
        self._theta_t = np.ascontiguousarray(theta.T)
        self._whiten = np.ascontiguousarray(root.reshape(self.num_actions * self.dim, self.dim).T)

    @classmethod
    def of(
        cls, statistics: Statistics, agent_alpha: float, tikhonov_weight: float, scale: ArrayLike | None = None
    ) -> LinUCB:
        """Solve the disjoint model: each action by itself.

        Args:
            scale: [d] > 0, the size of each feature to which λ is relative; None: 1 each.

        Raises:
            PolicyError: A is no sum of squares.
        """
        root = inverse_roots(statistics.a, tikhonov_weight, scale)
        theta: Array = np.einsum("kij,ki->kj", root, np.einsum("kij,kj->ki", root, statistics.b))
        return cls(theta, root, agent_alpha)

    def taken(self, indices: Sequence[int]) -> LinUCB:
        """Return the policy of these of its actions, in this order."""
        return LinUCB(self.theta[list(indices)], self.root[list(indices)], self.agent_alpha)

    @property
    def root(self) -> Array:
        return self._whiten.T.reshape(self.num_actions, self.dim, self.dim)

    def means(self, observations: NDArray[np.floating[Any]]) -> Array:
        """Return the expected rewards θ_a·x, [n, K], of observations [n, d]."""
        means: Array = observations.astype(np.float64, copy=False) @ self._theta_t
        return means

    def scores(self, observations: NDArray[np.floating[Any]]) -> Array:
        """Return the upper confidence bounds θ_a·x + α √(xᵀ (A_a + λI)⁻¹ x), [n, K], of observations [n, d]."""
        x = observations.astype(np.float64, copy=False)
        scores: Array = x @ self._theta_t
        for low in range(0, len(x), 1024):  # the whitened rows are K·d wide: bound their memory
            rows = slice(low, low + 1024)
            whitened = (x[rows] @ self._whiten).reshape(-1, self.num_actions, self.dim)
            scores[rows] += self.agent_alpha * np.sqrt(np.einsum("nkd,nkd->nk", whitened, whitened))
        return scores


def inverse_roots(a: Array, tikhonov_weight: float, scale: ArrayLike | None = None) -> Array:
    """Return R [K, d, d] with RᵀR = (A + λS²)⁻¹, so that xᵀRᵀRx = |Rx|² is never negative.

    By a Cholesky factorisation where A + λS² is positive definite in float64. Dependent features with a tiny λ are not:
    then by eigenvalues, the smallest taken as what rounding leaves of the largest. The features are brought to one size
    for it, or their units would decide.

    Args:
        a: [K, d, d].
        scale: S, [d] > 0; None: 1 each.

    Raises:
        PolicyError: A is no sum of squares.
    """
    dim = a.shape[-1]
    size = np.ones(dim) if scale is None else np.asarray(scale, np.float64)
    moments = a / np.multiply.outer(size, size) + tikhonov_weight * np.eye(dim)
    return _inverse_root(moments) / size


def _inverse_root(moments: Array) -> Array:
    """R [K, d, d] with RᵀR = M⁻¹ for symmetric M ≥ 0."""
    try:
        return np.linalg.inv(np.linalg.cholesky(moments))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(moments)
        if (values[:, 0] < -_ROUNDING * np.abs(values[:, -1])).any():
            raise PolicyError(
                "A + λI is not positive definite: A is no sum of squares; train the policy again"
            ) from None
        floor = values[:, -1:] * (moments.shape[-1] * np.finfo(float).eps)
        found: Array = np.swapaxes(vectors, 1, 2) / np.sqrt(np.maximum(values, floor))[:, :, None]
        return found
