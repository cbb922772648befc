"""Epsilon-floor exploration over the eligible actions, with exact propensities.

The highest score gets 1 - ε + ε/K, every other eligible action ε/K, where K counts the eligible actions; of equal
scores the lowest action id is the highest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rl_core.errors import SchemaError

Array = NDArray[np.float64]


def choose(scores: Array, eligible: Sequence[int] | None, epsilon: float, u: float) -> tuple[int, float]:
    """The action and its exact propensity for scores [K], eligible action indices (None: all) and u in [0, 1).

    u below ε explores: [0, ε) is cut into equal parts, one per eligible action, ascending.

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


def probabilities(scores: Array, eligible: NDArray[np.bool_] | None, epsilon: float) -> Array:
    """The probability of each action [n, K] for scores [n, K]; `eligible` is a mask [n, K], None where all are.

    Rows sum to 1 and hold exactly the propensities that `choose` returns.

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
    """A number in [0, 1) with 53 random bits that depends on salt (at most 64 bytes) and event id alone."""
    text = event_id.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, key=salt, person=b"draw").digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
