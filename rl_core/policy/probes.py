"""Probes: observations with the scores that a policy must give, so that a damaged or misread one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from rl_core.errors import PolicyError
from rl_core.policy.solving import Model

COUNT = 8
CANDIDATES = 4096
AT_ONCE = 64
GAP = 1e-3
TOLERANCE = 1e-6


class Probes(BaseModel):
    """Observations [P, d] with the scores [P, K] and actions [P] that the policy must give for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    observations: list[list[float]]
    scores: list[list[float]]
    actions: list[int]
    tolerance: float = TOLERANCE  # of the largest expected score, whatever the unit of the rewards
    clear: bool = True  # whether any observation has an action that stands out: else nothing was learnt

    @model_validator(mode="after")
    def _check(self) -> Self:
        widths = ({len(row) for row in self.observations}, {len(row) for row in self.scores})
        if not all(len(width) == 1 for width in widths):
            raise ValueError(
                f"probes have rows of {widths[0]} observed and {widths[1]} scored numbers; expected one width"
            )
        if not len(self.observations) == len(self.scores) == len(self.actions):
            raise ValueError("probes need as many scores and actions as observations")
        return self


def make_probes(model: Model, features: NDArray[Any] | None) -> Probes:
    """Choose features whose best action is clear, of those [n, d] that the policy was trained on, with its own scores.

    None: of random ones. Where no action stands out the first are taken: that nothing was learnt is for the evaluator
    to say.
    """
    if features is None or not len(features):
        features = np.random.default_rng(0).standard_normal((CANDIDATES, model.dim))
    candidates = features[:CANDIDATES].astype(np.float32)
    clear = _clear(model, candidates)
    chosen = candidates[clear] if clear else candidates[:COUNT]
    scores = model.scores(chosen)
    return Probes(
        observations=chosen.astype(np.float64).tolist(),
        scores=scores.tolist(),
        actions=scores.argmax(axis=1).tolist(),
        clear=bool(clear),
    )


def _clear(model: Model, candidates: NDArray[np.float32]) -> list[int]:
    """The first COUNT candidates whose best action is clear; usually among the first few, and all would cost much."""
    found: list[int] = []
    for low in range(0, len(candidates), AT_ONCE):
        scores = model.scores(candidates[low : low + AT_ONCE])
        spread = float(scores.max() - scores.min())
        found += (low + np.flatnonzero(_gaps(scores, TOLERANCE * spread) > GAP * spread)).tolist()
        if len(found) >= COUNT:
            break
    return found[:COUNT]


def _gaps(scores: NDArray[np.float64], same: float) -> NDArray[np.float64]:
    """By how much each row's best score exceeds the next that is not the same, [n]; 0 where all are.

    Actions of the same features have the same score in a model that shares: together they may stand out.
    """
    best = scores.max(axis=1)
    others = np.where(scores < best[:, None] - same, scores, -np.inf).max(axis=1)
    gaps: NDArray[np.float64] = np.where(np.isfinite(others), best - others, 0.0)
    return gaps


def check_probes(manifest: Path, probes: Probes, model: Model) -> None:
    """Raise PolicyError unless the policy scores its probes as it did when it was written, within `tolerance`."""
    observations, expected = np.asarray(probes.observations, dtype=np.float32), np.asarray(probes.scores)
    shapes = (observations.shape[1], expected.shape[1])
    if shapes != (model.dim, model.num_actions):
        raise PolicyError(f"{manifest}: probes have [dims, actions] {shapes}, not {(model.dim, model.num_actions)}")
    scores = model.scores(observations)
    largest = max(float(np.abs(expected).max()), np.finfo(float).tiny)
    off = np.abs(scores - expected) / largest
    for i in np.flatnonzero(~(off.max(axis=1) <= probes.tolerance)):
        k = int(np.argmax(off[i]))
        raise PolicyError(
            f"{manifest}: probe {i}: action {k} scores {scores[i, k]:.9g}, the manifest expects "
            f"{expected[i, k]:.9g} (tolerance {probes.tolerance:g}); statistics and manifest don't belong together"
        )
    chosen = scores[np.arange(len(scores)), probes.actions]
    for i in np.flatnonzero(chosen < scores.max(axis=1) - probes.tolerance * largest) if probes.clear else ():
        raise PolicyError(
            f"{manifest}: probe {i}: the policy chooses action {scores[i].argmax()}, "
            f"the manifest expects {probes.actions[i]}"
        )
