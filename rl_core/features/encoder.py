"""The encoder: turns observations as they were sent into the features a policy is trained on and scores.

One pure function with a definition and a digest: whoever holds the same encoder computes the same bits. Ranges are
learnt once, from the first window that is trained, and frozen with the encoder: one value of 1e15 among thousands of
ordinary ones would bend everything learnt, and the same clip must hold when serving and when training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from rl_core.errors import SchemaError
from rl_core.problem_config import Problem

CLIP_AT = 10.0
REFUSE_AT = 1000.0
"""Times the 99th percentile of a coordinate's size."""

Observations = NDArray[np.float32]


class Encoder(BaseModel):
    """What is made of an observation of `dim` numbers: clipped, brought to one size, with `intercept` a 1 behind it.

    Attributes:
        clip: per coordinate, the size beyond which it is clipped; None: no ranges were learnt, nothing is clipped.
        standardised: coordinates to which `shift` is added and which `spread` then divides, as learnt with `clip`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))
    dim: int
    intercept: bool = False
    clip: tuple[float, ...] | None = None
    standardised: tuple[int, ...] = ()
    shift: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """Define the encoder of a problem, without any range yet."""
        return cls(
            dim=problem.observation_dim, intercept=problem.has_intercept, standardised=problem.standardised_coordinates
        )

    @property
    def width(self) -> int:
        """How many features it makes."""
        return self.dim + self.intercept

    @cached_property
    def digest(self) -> str:
        """Name the function: what has another digest can't be added up."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def defines(self, problem: Problem) -> bool:
        """Whether it is the encoder of this problem, whatever its ranges."""
        return self._with(clip=None, shift=(), spread=()) == Encoder.of(problem)

    def learnt(self, observations: Observations) -> Self:
        """Learn the ranges from n rows [n, dim]: 10 times the 99th percentile of the size of a coordinate's non-zeros.

        Zeros say nothing of the scale of a coordinate that is mostly absent. One that is always 0 has no range.
        """
        clip = []
        for column in np.abs(observations.T, order="C"):  # each in one piece: reading every 20th number takes longer
            seen = column[column > 0]
            # The lower one: of few rows the largest may be the absurd one.
            rank = int(0.99 * (len(seen) - 1))
            at = CLIP_AT * float(np.partition(seen, rank)[rank]) if len(seen) else _LARGEST
            clip.append(float(np.float32(min(at, _LARGEST))))
        learnt = self._with(clip=tuple(clip))
        if not self.standardised:
            return learnt
        usual = learnt.encode(observations)[:, list(self.standardised)].astype(np.float64)
        spread = usual.std(axis=0)
        return learnt._with(
            shift=tuple((-usual.mean(axis=0)).tolist()), spread=tuple(np.where(spread > 0, spread, 1.0).tolist())
        )

    def _with(self, **changes: Any) -> Self:
        """Not `model_copy`, which copies what is cached, too: the digest of another function."""
        return type(self).model_validate({**self.model_dump(), **changes})

    def absurd(self, observations: Observations) -> NDArray[np.bool_]:
        """Mark the values [n, dim] that lie so far outside their range that they are refused."""
        if self.clip is None:
            return np.zeros(observations.shape, np.bool_)
        far: NDArray[np.bool_] = np.abs(observations) > self._refused
        return far

    def clipped(self, observations: Observations, largest: float = np.inf) -> int:
        """Count the values that encoding clips; `largest` is as of `encode`."""
        return int((np.abs(observations) > self._limit).sum()) if largest > self._narrowest else 0

    def encode(self, observations: NDArray[Any], largest: float = np.inf) -> NDArray[Any]:
        """Encode observations [n, dim] as features [n, width], in the precision in which they come.

        Args:
            largest: the size of the largest number among them, where it is known: it may save looking at each.
        """
        if largest > self._narrowest and (np.abs(observations) > self._limit).any():
            observations = np.clip(observations, -self._limit, self._limit).astype(observations.dtype, copy=False)
        if self.shift:
            added, divided = self._moved
            observations = ((observations + added) / divided).astype(observations.dtype)
        if not self.intercept:
            return observations
        return np.concatenate([observations, np.ones((len(observations), 1), observations.dtype)], axis=1)

    def refuse_absurd(self, observations: Observations, names: Sequence[str] = ()) -> None:
        """Raise SchemaError naming instance, number (by `names`, if given) and bound where a value is refused."""
        if self.clip is not None and (far := self.absurd(observations)).any():
            i, j = divmod(int(far.argmax()), self.dim)
            where = f"features.{names[j]}" if names else f"observation[{j}]"
            raise SchemaError(
                f"instances[{i}].{where} is {observations[i, j]:g}; it must lie within "
                f"±{self._refused[j]:g}, which is "
                f"{REFUSE_AT:g} times what is usual for it: send it in the unit of the rows that were trained on"
            )

    @cached_property
    def _narrowest(self) -> float:
        """No smaller number is clipped."""
        return float(np.inf) if self.clip is None else float(self._limit.min())

    @cached_property
    def _moved(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        added, divided, at = np.zeros(self.dim), np.ones(self.dim), list(self.standardised)
        added[at], divided[at] = self.shift, self.spread
        return added, divided

    @cached_property
    def _limit(self) -> Observations:
        return np.asarray(self.clip, np.float32)

    @cached_property
    def _refused(self) -> NDArray[np.float64]:
        return np.asarray(self.clip) * (REFUSE_AT / CLIP_AT)


_LARGEST = float(np.finfo(np.float32).max)
