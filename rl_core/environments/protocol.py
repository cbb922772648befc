"""What generator and simulator ask of an environment, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Shown = NDArray[np.float32] | list[dict[str, Any]]
"""What n users show: numbers [n, observation_dim], or as many objects of named features."""

Users = Sequence[Any] | NDArray[Any]


class Environment(Protocol):
    """A world of users. What a user is, is the environment's own affair: an index, what it shows, a seed.

    Nothing depends on whom it showed before: the same generator gives the same users, and the reward of a user for an
    action and an event id is always the same, so that a logged reward can be recomputed.
    """

    def identity(self) -> bytes:
        """Name all that shapes users and rewards but is not in the bandit's YAML."""

    def observe(self, rng: np.random.Generator, n: int) -> Users:
        """Let n users arrive."""

    def shown(self, users: Users) -> Shown:
        """Return what the users show."""

    def earned(
        self, users: Users, action_ids: Sequence[str], event_ids: Sequence[str], round: int = 0
    ) -> NDArray[np.float64]:
        """Return what each user gives for its action [n]; `round` counts the traffic of a world that drifts."""
