"""A plain Python class as an environment: `observe(rng, n)` and `reward(observation, action_id, event_id)`.

No base class is needed. The user is what it shows, and its reward is asked for one by one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rl_core.environments.protocol import Shown, Users
from rl_core.errors import SchemaError


class Plain(Protocol):
    """What somebody writes. The noise of a reward comes from the event id, so that it is the same when asked again."""

    def observe(self, rng: np.random.Generator, n: int) -> Any:
        """Return n observations, an array [n, observation_dim], or a list of n dicts of named features."""

    def reward(self, observation: Any, action_id: str, event_id: str) -> float:
        """Return what the user who showed this gives for this action."""


class PlainEnvironment:
    """Makes an `Environment` of it: observations are as they will be logged, float32 or JSON, also when rewarded."""

    def __init__(self, plain: Plain) -> None:
        self._plain = plain

    def identity(self) -> bytes:
        return b""

    def observe(self, rng: np.random.Generator, n: int) -> Users:
        found = self._plain.observe(rng, n)
        if isinstance(found, list | tuple) and any(isinstance(one, dict) for one in found):
            features: list[Any] = json.loads(json.dumps(found, default=_plain_value))
            return features
        try:
            with np.errstate(over="ignore"):  # what doesn't fit is infinite, and refused as such
                return np.asarray(found).astype(np.float32)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"observe gives no array of numbers ({' '.join(str(error).split())})") from error

    def shown(self, users: Users) -> Shown:
        return users if isinstance(users, np.ndarray) else list(users)

    def earned(
        self, users: Users, action_ids: Sequence[str], event_ids: Sequence[str], round: int = 0
    ) -> NDArray[np.float64]:
        asked = zip(users, action_ids, event_ids, strict=True)
        return np.asarray([one_number(self._plain.reward(*one)) for one in asked])


def one_number(reward: Any) -> float:
    """Take a number of Python or numpy as a reward. Raises SchemaError for anything else."""
    single = reward.item() if isinstance(reward, np.ndarray) and reward.ndim == 0 else reward
    if not isinstance(single, int | float | np.integer | np.floating | np.bool_):
        raise SchemaError(f"reward gives {str(reward)[:60]!r}; it has to be one number")
    return float(single)


def _plain_value(value: Any) -> Any:
    """Of numpy's scalars and arrays, and of times, what JSON can hold."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a feature can't be a {type(value).__name__}")
