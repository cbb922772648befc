"""Epsilon-greedy exploration over the eligible actions, with exact propensities.

Of K eligible actions the best takes 1 - ε + ε/K of the probability, every other ε/K; an action that is not eligible
takes none. The best has the highest score, of equal scores the lowest index. A floor of ε/K under every propensity is
what makes the log fit for off-policy evaluation (`rl_core.bandit.ope`): importance weights are at most K/ε.
Sutton and Barto (2018), "Reinforcement Learning", 2nd edition, section 2.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_core.errors import SchemaError

Array = NDArray[np.float64]
_WORTH_AN_ARRAY = 8  # rows: below, NumPy costs more than the loop


def choose(scores: Array, eligible: Sequence[int] | None, epsilon: float, u: float) -> tuple[int, float]:
    """Choose an action by a number u drawn uniformly from [0, 1); return its index and its exact propensity.

    Where u < ε, the action is number ⌊K u/ε⌋ of the K eligible ones, ascending; else it is the best. So the best has
    probability 1 - ε + ε/K and every other ε/K, and the same u always gives the same action.

    Args:
        scores: [number of actions].
        eligible: indices of the actions that may be chosen; None: all.
        epsilon: the uniform floor ε, in (0, 1].

    Raises:
        SchemaError: no action is eligible, or an eligible index is not an action.
    """
    if eligible is None:
        candidates: Sequence[int] = range(len(scores))
        best = int(scores.argmax())
    else:
        candidates = sorted(set(eligible))
        if not candidates or candidates[0] < 0 or candidates[-1] >= len(scores):
            raise SchemaError(f"eligible actions are {list(eligible)}; give at least one index of 0..{len(scores) - 1}")
        best = candidates[int(scores[candidates].argmax())]
    count = len(candidates)
    action = candidates[min(int(u / epsilon * count), count - 1)] if u < epsilon else best
    return action, 1.0 - epsilon + epsilon / count if action == best else epsilon / count


def choose_all(
    scores: Array, eligible: Sequence[Sequence[int] | None], epsilon: float, u: Array
) -> tuple[list[int], list[float]]:
    """Choose for each of n rows as `choose` does: scores [n, K], the eligible actions of each (None: all), u [n].

    Raises:
        SchemaError: as `choose`.
    """
    if len(u) < _WORTH_AN_ARRAY or any(given is not None for given in eligible):
        chosen = [choose(row, its, epsilon, float(at)) for row, its, at in zip(scores, eligible, u, strict=True)]
        return [action for action, _ in chosen], [propensity for _, propensity in chosen]
    count = scores.shape[1]
    best = scores.argmax(axis=1)
    explored = np.minimum((u / epsilon * count).astype(np.int64), count - 1)
    actions = np.where(u < epsilon, explored, best)
    propensities = np.where(actions == best, 1.0 - epsilon + epsilon / count, epsilon / count)
    return actions.tolist(), propensities.tolist()


def probabilities(scores: Array, eligible: NDArray[np.bool_] | None, epsilon: float) -> Array:
    """Return the probability of each action [n, K] under the policy that `choose` draws from.

    Rows sum to 1 and hold exactly the propensities that `choose` returns: 1 - ε + ε/Kᵢ for the best of the Kᵢ eligible
    actions of row i, ε/Kᵢ for the others, 0 for what is not eligible.

    Args:
        scores: [n, K].
        eligible: mask [n, K]; None: all.
        epsilon: the uniform floor ε, in (0, 1].

    Raises:
        SchemaError: a row has no eligible action.
    """
    rows = np.arange(len(scores))
    if eligible is None:
        counts = np.full(len(scores), scores.shape[1])
        best = scores.argmax(axis=1)
        floor = np.repeat((epsilon / counts)[:, None], scores.shape[1], axis=1)
    else:
        counts = eligible.sum(axis=1)
        if len(counts) and counts.min() == 0:
            raise SchemaError(f"row {int(counts.argmin())} has no eligible action; every decision needs at least one")
        best = np.where(eligible, scores, -np.inf).argmax(axis=1)
        floor = np.where(eligible, (epsilon / counts)[:, None], 0.0)
    floor[rows, best] = 1.0 - epsilon + epsilon / counts
    return floor


def draw_uniform(salt: bytes, event_id: str) -> float:
    """Derive a number in [0, 1) with 53 random bits from salt and event id alone.

    So a decision that is asked for again is drawn alike, on every replica, and nobody without the salt (a secret of at
    most 64 bytes) can foresee a draw. Keyed BLAKE2b, RFC 7693; 53 bits are what a float64 holds.
    """
    hashed = hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8, key=salt, person=b"draw")
    return (int.from_bytes(hashed.digest(), "little") >> 11) * 2.0**-53


def draws_uniform(salt: bytes, event_ids: Sequence[str]) -> Array:
    """Draw for each event id as `draw_uniform` does: [n]."""
    salted, digests = hashlib.blake2b(digest_size=8, key=salt, person=b"draw"), []
    for event_id in event_ids:
        hashed = salted.copy()
        hashed.update(event_id.encode("utf-8", "surrogatepass"))
        digests.append(hashed.digest())
    drawn: Array = (np.frombuffer(b"".join(digests), "<u8") >> np.uint64(11)) * np.float64(2.0**-53)
    return drawn
