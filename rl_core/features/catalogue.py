"""What a policy knows of its actions: the features of each, and which of them count for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rl_core.errors import SchemaError
from rl_core.feature_config import Features
from rl_core.features.vectorise import Vectoriser
from rl_core.problem_config import Problem


class Catalogue(BaseModel):
    """The features of actions, frozen with the policy that is solved by them: their definition, and each as described.

    Attributes:
        features: the definition, `problem.action_features`.
        described: what is said of each action by its id; of those, too, that are no longer in the YAML.
        size: the root mean square of each number over the actions, to which λ is relative; 1 where all are 0.
        crossed: for each number the indices of the encoded observation that it is multiplied with, the intercept's too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))
    features: Features
    described: dict[str, dict[str, Any]]
    size: tuple[float, ...]
    crossed: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, problem: Problem, crosses: Sequence[tuple[str, str]], before: Catalogue | None = None) -> Self:
        """Make it of the problem's actions, and of those that only the one `before` knows.

        Args:
            crosses: pairs of a named feature of the observation and one of the action.
        """
        described = {**(before.described if before is not None else {}), **_described(problem)}
        vectors = list(_vectors(problem.action_features, described).values())
        squares = np.mean(np.square(vectors), axis=0)
        return cls(
            features=problem.action_features,
            described=described,
            size=tuple(np.where(squares > 0, np.sqrt(squares), 1.0).tolist()),
            crossed=_crossed(problem, crosses),
        )

    def renewed(self, problem: Problem) -> Self:
        """Return it with the actions as the problem describes them now; one of other features stays as it is."""
        if self.features != problem.action_features:
            return self
        described = {**self.described, **_described(problem)}  # not by model_copy: it copies what is cached, too
        return type(self)(features=self.features, described=described, size=self.size, crossed=self.crossed)

    @cached_property
    def vectors(self) -> dict[str, list[float]]:
        """The numbers of each action that is described so that its definition can read it."""
        return _vectors(self.features, self.described)

    def matrix(self, actions: Sequence[str]) -> NDArray[np.float64]:
        """Return a 1 and the numbers of each action, [K, 1 + p]; zeros stand for what is not known."""
        none = [0.0] * len(self.size)
        return np.asarray([[1.0, *self.vectors.get(action, none)] for action in actions], np.float64)


def _described(problem: Problem) -> dict[str, dict[str, Any]]:
    return {action: problem.described.get(action, {}) for action in problem.actions}


def _vectors(features: Features, described: Mapping[str, dict[str, Any]]) -> dict[str, list[float]]:
    vectoriser, found = Vectoriser(features), {}
    for action, given in described.items():
        with suppress(SchemaError):  # gone from the YAML, which is checked, and described by another definition
            said = {name: value for name, value in given.items() if name in features}
            found[action] = vectoriser.row(said, action)
    return found


def _crossed(problem: Problem, crosses: Sequence[tuple[str, str]]) -> tuple[tuple[int, ...], ...]:
    """For each number of an action those of the encoded observation, whose last one is the intercept."""
    places, at = {}, 0
    for name, names in problem.observed_names.items():
        places[name] = range(at, at + len(names))
        at += len(names)
    crossed = []
    for name, feature in problem.action_features.items():
        indices = [index for one, other in dict.fromkeys(crosses) if other == name for index in places[one]]
        crossed += [(at, *indices)] * len(feature.names(name))
    return tuple(crossed)
