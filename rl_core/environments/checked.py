"""Holds somebody's environment to what the problem says, so that a fault of it is one line and never a wrong log."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rl_core.environments.protocol import Environment, Shown, Users
from rl_core.errors import SchemaError
from rl_core.features.vectorise import Vectoriser
from rl_core.problem_config import Problem

_PROBED = 32
_OURS = Path(__file__).parent
T = TypeVar("T")


class CheckedEnvironment:
    """An environment whose users and rewards keep the rules of the problem. `name` begins each error.

    Raises:
        SchemaError: from every method; also when made, since it is tried out then.
    """

    def __init__(self, environment: Environment, problem: Problem, name: str) -> None:
        self._inner, self._problem, self._name = environment, problem, name
        self._vectoriser = Vectoriser(problem.features)
        first, again = self._probe(), self._probe()
        if first != again:
            raise self._wrong(
                "observe or reward give something else when asked again; draw users from the rng of observe, and "
                "the noise of a reward from its event_id"
            )
        self._identity = hashlib.sha256(first.encode()).digest()

    def identity(self) -> bytes:
        """Digest what a few users show and give: another world is told by what it does."""
        return self._identity

    def observe(self, rng: np.random.Generator, n: int) -> Users:
        users = self._called("observe", lambda: self._inner.observe(rng, n))
        shown = self._called("observe", lambda: self._inner.shown(users))
        if isinstance(shown, list):
            self._check_features(shown, n)
        else:
            self._check_numbers(shown, n)
        return users

    def shown(self, users: Users) -> Shown:
        return self._inner.shown(users)

    def earned(
        self, users: Users, action_ids: Sequence[str], event_ids: Sequence[str], round: int = 0
    ) -> NDArray[np.float64]:
        rewards = self._called("reward", lambda: self._inner.earned(users, action_ids, event_ids, round))
        low, high = self._problem.reward_min, self._problem.reward_max
        for at in np.flatnonzero(~((rewards >= low) & (rewards <= high)))[:1]:
            raise self._wrong(
                f"reward gives {rewards[at]:g} for action {action_ids[at]!r}; it has to be within "
                f"problem.reward_min..reward_max, {low:g}..{high:g}: clip it, or widen the bounds"
            )
        return rewards

    def _check_numbers(self, shown: NDArray[np.float32], n: int) -> None:
        wanted = (n, self._problem.observation_dim)
        if self._problem.features:
            raise self._wrong(f"observe gives an array; problem.features is declared: give a list of {n} dicts")
        if shown.shape != wanted:
            raise self._wrong(f"observe gives the shape {shown.shape}; n={n} and problem.observation_dim want {wanted}")
        if not np.isfinite(shown).all():
            row, column = np.argwhere(~np.isfinite(shown))[0]
            raise self._wrong(f"observe gives {shown[row, column]} in column {column}; give finite float32 numbers")

    def _check_features(self, shown: list[dict[str, Any]], n: int) -> None:
        if not self._problem.features:
            raise self._wrong("observe gives dicts; declare problem.features, or give an array [n, observation_dim]")
        if len(shown) != n:
            raise self._wrong(f"observe gives {len(shown)} dicts; n={n} of them were asked for")
        if strange := [one for one in shown if not isinstance(one, dict)]:
            raise self._wrong(f"observe gives dicts and {type(strange[0]).__name__}; give dicts only")
        try:
            self._vectoriser.rows(shown, "observe(…)[{}]")
        except SchemaError as error:
            raise self._wrong(str(error)) from error

    def _probe(self) -> str:
        """What a few users show and give, to six digits, since a factorisation's last bits vary between machines."""
        rng, actions = np.random.default_rng(0), list(islice(cycle(self._problem.active), _PROBED))
        users = self.observe(rng, _PROBED)
        rewards = self.earned(users, actions, [f"probe-{i}" for i in range(_PROBED)])
        shown = self.shown(users)
        said = shown if isinstance(shown, list) else [[f"{x:.6g}" for x in row] for row in shown.tolist()]
        return repr((said, [f"{reward:.6g}" for reward in rewards]))

    def _called(self, what: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except SchemaError as error:
            raise self._wrong(str(error)) from error
        except Exception as error:
            raise self._wrong(f"{what} raised {told(error)}") from error

    def _wrong(self, what: str) -> SchemaError:
        return SchemaError(f"{self._name}: {what}")


def told(error: Exception) -> str:
    """Say an error of somebody's code in one line, with the place where it was raised, if that is not ours."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(f"{type(error).__name__}: {error}".split())
    ours = Path(place.filename).is_relative_to(_OURS)
    return f"{text}; look at how it is called" if ours else f"{text} ({place.filename}:{place.lineno}); mend it there"
