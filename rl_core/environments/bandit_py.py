"""An environment of TF-Agents, a `BanditPyEnvironment`, as an environment of ours. Imports none of TensorFlow.

It draws from the global random streams, and rewards whom it showed last. So a user is a seed: with it the streams
begin anew and the same user is shown again, and before the reward is drawn they begin with the event id.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_core.environments.plain import one_number
from rl_core.environments.protocol import Shown, Users
from rl_core.errors import ConfigError


class _User(NamedTuple):
    seed: int
    observation: NDArray[np.float32]


class BanditPyAdapter:
    """Makes an `Environment` of it. The n-th of the problem's actions is its n-th action; of a batch the first counts.

    Raises:
        ConfigError: it has other actions than the problem, or what it shows is not one array.
    """

    def __init__(self, theirs: Any, actions: Sequence[str]) -> None:
        spec = theirs.action_spec()
        low, high = (int(np.min(getattr(spec, bound, -1))) for bound in ("minimum", "maximum"))
        if high - low + 1 != len(actions):
            raise ConfigError(f"it has {high - low + 1} actions, problem.actions lists {len(actions)}; list as many")
        if not hasattr(theirs.observation_spec(), "dtype"):
            raise ConfigError("it shows several arrays; give one whose observation_spec is one array")
        self._theirs, self._batch = theirs, theirs.batch_size or 0
        self._action_of = {action: low + index for index, action in enumerate(actions)}
        self._dtype = spec.dtype

    def identity(self) -> bytes:
        return b""

    def observe(self, rng: np.random.Generator, n: int) -> Users:
        seeds = rng.integers(0, 2**32, n).tolist()
        return [_User(seed, self._arrives(seed)) for seed in seeds]

    def shown(self, users: Users) -> Shown:
        return np.stack([user.observation for user in users])

    def earned(
        self, users: Users, action_ids: Sequence[str], event_ids: Sequence[str], round: int = 0
    ) -> NDArray[np.float64]:
        return np.asarray([self._reward(*one) for one in zip(users, action_ids, event_ids, strict=True)])

    def _arrives(self, seed: int) -> NDArray[np.float32]:
        _seed(seed)
        shown = np.asarray(self._theirs.reset().observation)
        observation: NDArray[np.float32] = (shown[0] if self._batch else shown).astype(np.float32).ravel()
        return observation

    def _reward(self, user: _User, action_id: str, event_id: str) -> float:
        self._arrives(user.seed)
        _seed(int.from_bytes(hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).digest()[:4]))
        action = np.full([self._batch] if self._batch else [], self._action_of[action_id], self._dtype)
        reward = np.asarray(self._theirs.step(action).reward)
        return one_number(reward[0] if self._batch and reward.ndim else reward)


def is_bandit_py(made: object) -> bool:
    """Tell whether it is an environment of TF-Agents' for bandits in Python, without importing TF-Agents."""
    return any(base.__name__ == "BanditPyEnvironment" for base in type(made).__mro__)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    if (tensorflow := sys.modules.get("tensorflow")) is not None:
        tensorflow.random.set_seed(seed)
