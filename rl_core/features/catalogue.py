"""What a policy knows of its actions: the features of each, and which of them count for whom."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rl_core.feature_config import names_of
from rl_core.features.vectorise import Vectoriser
from rl_core.problem_config import Problem


class Catalogue(BaseModel):
    """The features of actions as numbers, frozen with the policy that is solved by them.

    Attributes:
        definition: a digest of `problem.action_features`.
        names: of the numbers.
        vectors: of each action by its id; whoever is not among them has zeros.
        size: the root mean square of each number over the actions, to which λ is relative; 1 where all are 0.
        crossed: for each number the indices of the encoded observation that it is multiplied with, the intercept's too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    definition: str
    names: tuple[str, ...]
    vectors: dict[str, tuple[float, ...]]
    size: tuple[float, ...]
    crossed: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, problem: Problem, crosses: Sequence[tuple[str, str]], before: Catalogue | None = None) -> Self:
        """Make it of the problem's actions, and of those that only the one `before` knows, if it has the same features.

        Args:
            crosses: pairs of a named feature of the observation and one of the action.
        """
        definition = _digest(problem)
        known = before.vectors if before is not None and before.definition == definition else {}
        vectors = {**known, **_vectors(problem)}
        squares = np.mean(np.square(list(vectors.values())), axis=0)
        return cls(
            definition=definition,
            names=tuple(names_of(problem.action_features)),
            vectors=vectors,
            size=tuple(np.where(squares > 0, np.sqrt(squares), 1.0).tolist()),
            crossed=_crossed(problem, crosses),
        )

    def renewed(self, problem: Problem) -> Self:
        """Return it with the actions as the problem describes them now; one of other features stays as it is."""
        if self.definition != _digest(problem):
            return self
        return self.model_copy(update={"vectors": {**self.vectors, **_vectors(problem)}})

    def matrix(self, actions: Sequence[str]) -> NDArray[np.float64]:
        """Return a 1 and the numbers of each action, [K, 1 + p]."""
        none = (0.0,) * len(self.names)
        return np.asarray([(1.0, *self.vectors.get(action, none)) for action in actions], np.float64)


def _vectors(problem: Problem) -> dict[str, tuple[float, ...]]:
    vectoriser = Vectoriser(problem.action_features)
    return {
        action: tuple(vectoriser.row(problem.described.get(action, {}), f"the features of action {action!r}"))
        for action in problem.actions
    }


def _digest(problem: Problem) -> str:
    definition = {name: feature.model_dump(mode="json") for name, feature in problem.action_features.items()}
    return hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:16]


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
