"""Linear models in which actions share what they have in common, solved from the sums per action of disjoint ones.

Action k has features a_k [p]; with a 1 before them they are ã_k. A shared coordinate is the product x_i ã_kj of a
number of the observation and one of the action, so for each action all of them are linear in x: φ(x, k) = T_k x. As x
has an intercept, the products with it are the action's own features. So the sums over the rows of each action,

    A_k = Σ xxᵀ    b_k = Σ rx,    give    Σ φφᵀ = Σ_k T_k A_k T_kᵀ    Σ rφ = Σ_k T_k b_k

and disjoint, shared and hybrid are three ways to solve one set of sums. With Λ = λS², S the size of each coordinate:

    shared   β = (Σ φφᵀ + Λ)⁻¹ Σ rφ;  mean β·φ, width √(φᵀ (Σ φφᵀ + Λ)⁻¹ φ)
    hybrid   mean β·φ + θ_k·x: one ridge regression over β and all θ_k

Shared is TF-Agents' `LinearUCBAgent` with `accepts_per_arm_features`, where nothing is crossed and S is 1. Hybrid is
algorithm 2 of Li, Chu, Langford, Schapire (2010), "A contextual-bandit approach to personalized news article
recommendation", WWW; solved, it is one θ and one root for each action, as the disjoint one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_core.bandit.linucb import Array, LinUCB, Statistics, inverse_roots

_SCORES_AT_ONCE = 1 << 20  # numbers of the largest array that scoring makes


@dataclass(frozen=True, eq=False)
class Sharing:
    """What actions share.

    Attributes:
        actions: ã [K, 1 + p], its first column is 1.
        crossed: for each column of `actions` the indices of x that it is multiplied with; for the first all of them.
        size: [1 + p] > 0, the size of each column, to which λ is relative.
    """

    actions: Array
    crossed: tuple[NDArray[np.intp], ...]
    size: Array

    def parts(self) -> Iterator[tuple[int, NDArray[np.intp], slice]]:
        """Yield each column of `actions`, the indices of x that it is multiplied with, and where in φ they stand."""
        start = 0
        for column, indices in enumerate(self.crossed):
            yield column, indices, slice(start, start + len(indices))
            start += len(indices)

    def size_of(self, scale: ArrayLike | None) -> Array | None:
        """Return S [m], the size of each shared coordinate, for x of the size `scale` [d]; None: 1 each."""
        if scale is None:
            return None
        x = np.asarray(scale, np.float64)
        return np.concatenate([x[indices] * self.size[column] for column, indices, _ in self.parts()])

    def second_moments(self, a: Array) -> Array:
        """Return Σ_k T_k A_k T_kᵀ [m, m] of A [K, d, d]."""
        m = sum(map(len, self.crossed))
        found = np.empty((m, m))
        for j, rows, at in self.parts():
            for i, columns, beside in self.parts():
                if i >= j:
                    weights = self.actions[:, j] * self.actions[:, i]
                    found[at, beside] = np.tensordot(weights, a[:, rows][:, :, columns], axes=1)
                    found[beside, at] = found[at, beside].T
        return found

    def first_moments(self, b: Array) -> Array:
        """Return Σ_k T_k b_k [m] of b [K, d]."""
        return np.concatenate([self.actions[:, column] @ b[:, indices] for column, indices, _ in self.parts()])

    def per_action(self, beta: Array) -> Array:
        """Return T_kᵀβ [K, d] of β [m], all numbers of x being in the first column's."""
        found = np.zeros((len(self.actions), len(self.crossed[0])))
        for column, indices, at in self.parts():
            found[:, indices] += np.multiply.outer(self.actions[:, column], beta[at])
        return found

    def times(self, root: Array, action: int) -> Array:
        """Return R T_k [m, d] of R [m, m] for one action."""
        found = np.zeros((len(root), len(self.crossed[0])))
        for column, indices, at in self.parts():
            found[:, indices] += self.actions[action, column] * root[:, at]
        return found

    def taken(self, indices: Sequence[int]) -> Sharing:
        """Return what these of the actions share, in this order."""
        return Sharing(self.actions[list(indices)], self.crossed, self.size)


class SharedLinUCB:
    """One model for all actions; it scores by two small products, not K encodings: √(ãᵀ H ã), H [1 + p, 1 + p] of x."""

    def __init__(self, beta: Array, root: Array, sharing: Sharing, agent_alpha: float) -> None:
        """`beta` is [m], `root` R [m, m] with RᵀR = (Σ φφᵀ + Λ)⁻¹."""
        self.agent_alpha = agent_alpha
        self.num_actions, self.dim = len(sharing.actions), len(sharing.crossed[0])
        self._beta, self._root, self._sharing = beta, root, sharing
        self._parts = [(indices, beta[at], np.ascontiguousarray(root[:, at].T)) for _, indices, at in sharing.parts()]
        self._actions_t = np.ascontiguousarray(sharing.actions.T)

    @classmethod
    def of(
        cls,
        statistics: Statistics,
        agent_alpha: float,
        tikhonov_weight: float,
        scale: ArrayLike | None,
        sharing: Sharing,
    ) -> SharedLinUCB:
        """Solve the shared model. Raises PolicyError as `inverse_roots`."""
        moments = sharing.second_moments(statistics.a)
        root = inverse_roots(moments[None], tikhonov_weight, sharing.size_of(scale))[0]
        beta: Array = root.T @ (root @ sharing.first_moments(statistics.b))
        return cls(beta, root, sharing, agent_alpha)

    def taken(self, indices: Sequence[int]) -> SharedLinUCB:
        """Return the policy of these of its actions, in this order."""
        return SharedLinUCB(self._beta, self._root, self._sharing.taken(indices), self.agent_alpha)

    @property
    def theta(self) -> Array:
        """θ [K, d]: the expected reward of action k is θ_k·x."""
        return self._sharing.per_action(self._beta)

    @property
    def root(self) -> Array:
        """R [K, d, d]: |R_k x| is the width of the bound of action k."""
        wide = (self._sharing.times(self._root, action) for action in range(self.num_actions))
        return np.stack([_root_of(rows.T @ rows) for rows in wide])

    def means(self, observations: NDArray[np.floating[Any]]) -> Array:
        """Return the expected rewards [n, K] of observations [n, d]."""
        x = observations.astype(np.float64, copy=False)
        return np.stack([x[:, indices] @ beta for indices, beta, _ in self._parts], axis=1) @ self._actions_t

    def scores(self, observations: NDArray[np.floating[Any]]) -> Array:
        """Return the upper confidence bounds [n, K] of observations [n, d]."""
        x = observations.astype(np.float64, copy=False)
        scores = self.means(x)
        actions = self._sharing.actions
        step = max(_SCORES_AT_ONCE // (actions.size + len(self._root) * len(self._parts)), 1)
        for low in range(0, len(x), step):
            some = x[low : low + step]
            whitened = np.stack([some[:, indices] @ root for indices, _, root in self._parts], axis=1)  # [n, 1 + p, m]
            squares = whitened @ np.swapaxes(whitened, 1, 2)
            widths = np.einsum("nkp,kp->nk", actions @ squares, actions)
            scores[low : low + step] += self.agent_alpha * np.sqrt(np.maximum(widths, 0.0))
        return scores


def solve_hybrid(
    statistics: Statistics, agent_alpha: float, tikhonov_weight: float, scale: ArrayLike | None, sharing: Sharing
) -> LinUCB:
    """Solve the hybrid model: for each action θ_k + T_kᵀβ, and the root of its width. Raises PolicyError.

    With P_k = (A_k + Λ)⁻¹, what the θ_k leave of the shared coordinates has the second moments T_k A_k P_k Λ T_kᵀ.
    """
    own = inverse_roots(statistics.a, tikhonov_weight, scale)
    inverse = np.swapaxes(own, 1, 2) @ own
    penalty = tikhonov_weight * (np.ones(own.shape[-1]) if scale is None else np.asarray(scale, np.float64) ** 2)
    alone = np.einsum("kij,kj->ki", inverse, statistics.b)
    left = statistics.a @ inverse * penalty
    moments = sharing.second_moments((left + np.swapaxes(left, 1, 2)) / 2)
    root = inverse_roots(moments[None], tikhonov_weight, sharing.size_of(scale))[0]
    beta: Array = root.T @ (root @ sharing.first_moments(penalty * alone))
    shrink = inverse * penalty  # P_k Λ: what is left of a shift of θ_k towards what is shared
    theta = alone + np.einsum("kij,kj->ki", shrink, sharing.per_action(beta))
    for action in range(len(own)):
        wide = sharing.times(root, action) @ shrink[action].T
        own[action] = _root_of(wide.T @ wide + inverse[action])
    return LinUCB(theta, own, agent_alpha)


def _root_of(squares: Array) -> Array:
    """Return R [d, d] with RᵀR = `squares`, which is ≥ 0."""
    values, vectors = np.linalg.eigh(squares)
    found: Array = (vectors * np.sqrt(np.maximum(values, 0.0))).T
    return found
