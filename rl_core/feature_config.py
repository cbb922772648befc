"""The named features of a problem: what each is called, of what kind it is, and what stands for one that is missing.

features:
  age:       {kind: number, min: 0, max: 120, missing: 40}
  country:   {kind: category, values: [de, fr, it]}       # one of them, or another
  campaign:  {kind: hashed, buckets: 64}                  # of many, or of ones not known yet
  interests: {kind: set, values: [news, sport]}           # any number of them
  member:    boolean
  seen_at:   time                                         # of day and of week
  embedding: {kind: vector, dim: 8}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from rl_core.frozen import Frozen


def _named_once(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("values lists one more than once")
    return values


Values = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_named_once)]


class _Kind(Frozen):
    """What all kinds have in common: `names` of the numbers that one becomes, an `example` of what is sent."""

    @property
    def optional(self) -> bool:
        """Whether a request may leave it out, or send null."""
        return getattr(self, "missing", None) is not None


class Number(_Kind):
    """One number. `min` and `max` bring it to -1..1, else the mean and the spread of the first training do."""

    kind: Literal["number"] = "number"
    min: float | None = None
    max: float | None = None
    missing: float | None = Field(
        default=None, description="stands for one that is missing or null; else that is an error"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.min is None) != (self.max is None) or (
            self.min is not None and self.max is not None and self.min >= self.max
        ):
            raise ValueError(f"min={self.min} and max={self.max}: give both, min below max, or neither")
        return self

    @property
    def example(self) -> Any:
        return 0.0 if self.min is None else self.min

    def names(self, name: str) -> list[str]:
        return [name]


class Category(_Kind):
    """One of `values`, or another: a 1 at its place."""

    kind: Literal["category"] = "category"
    values: Values
    missing: str | None = None

    @property
    def example(self) -> Any:
        return self.values[0]

    def names(self, name: str) -> list[str]:
        return [*(f"{name}={value}" for value in self.values), f"{name}=other"]


class Hashed(_Kind):
    """One of many: a 1 in the bucket that its hash gives; some share one."""

    kind: Literal["hashed"] = "hashed"
    buckets: int = Field(ge=2, le=4096)
    missing: str | None = None

    @property
    def example(self) -> Any:
        return "a word"

    def names(self, name: str) -> list[str]:
        return [f"{name}#{bucket}" for bucket in range(self.buckets)]


class SetOf(_Kind):
    """Any number of `values`: a 1 at the place of each, and one for any other. Missing is the empty set."""

    kind: Literal["set"] = "set"
    values: Values

    @property
    def optional(self) -> bool:
        return True

    @property
    def example(self) -> Any:
        return [self.values[0]]

    def names(self, name: str) -> list[str]:
        return [*(f"{name}:{value}" for value in self.values), f"{name}:other"]


class Boolean(_Kind):
    """True or false."""

    kind: Literal["boolean"] = "boolean"
    missing: bool | None = None

    @property
    def example(self) -> Any:
        return True

    def names(self, name: str) -> list[str]:
        return [name]


class Time(_Kind):
    """A time, ISO 8601 with an offset: its place in the day and in the week (of UTC), each as a point on a circle."""

    kind: Literal["time"] = "time"
    missing: datetime | None = None

    @property
    def example(self) -> Any:
        return "2026-01-31T12:00:00Z"

    def names(self, name: str) -> list[str]:
        return [f"{name}.{circle}.{axis}" for circle in ("day", "week") for axis in ("sin", "cos")]


class Vector(_Kind):
    """So many numbers, an embedding say."""

    kind: Literal["vector"] = "vector"
    dim: int = Field(ge=1, le=4096)
    missing: Literal["zeros"] | None = None

    @property
    def example(self) -> Any:
        return [0.0] * self.dim

    def names(self, name: str) -> list[str]:
        return [f"{name}[{index}]" for index in range(self.dim)]


def _whole(given: Any) -> Any:
    """`member: boolean` is `member: {kind: boolean}`."""
    return {"kind": given} if isinstance(given, str) else given


_Kinds = Annotated[Number | Category | Hashed | SetOf | Boolean | Time | Vector, Field(discriminator="kind")]
Feature = Annotated[_Kinds, BeforeValidator(_whole)]
FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Features = dict[FeatureName, Feature]


def names_of(features: Features) -> list[str]:
    """Name every number that the features are made into, in order."""
    return [coordinate for name, feature in features.items() for coordinate in feature.names(name)]


_SENT: dict[str, TypeAdapter[Any]] = {
    "number": TypeAdapter(Annotated[FiniteFloat, Field(strict=True)]),
    "category": TypeAdapter(str),
    "hashed": TypeAdapter(str),
    "set": TypeAdapter(list[str]),
    "boolean": TypeAdapter(Annotated[bool, Field(strict=True)]),
    "time": TypeAdapter(AwareDatetime),
    "vector": TypeAdapter(list[Annotated[FiniteFloat, Field(strict=True)]]),
}


def faults_of(features: Features, given: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with features as a YAML gives them: an unknown name, one that is missing, another kind."""
    for name in given:
        if name not in features:
            alike = get_close_matches(str(name), features, 1)
            meant = f"did you mean {alike[0]}?" if alike else f"they are {', '.join(features)}"
            yield f"{name!r} is no feature; {meant}"
    for name, feature in features.items():
        value = given.get(name)
        if value is None:
            if not feature.optional:
                yield f"{name} is missing; give it, or declare what stands for it: `missing`"
            continue
        try:
            _SENT[feature.kind].validate_python(value)
        except ValidationError as error:
            yield f"{name} is {str(value)[:60]!r}, no {feature.kind} ({error.errors()[0]['msg']})"
        else:
            if isinstance(feature, Vector) and len(value) != feature.dim:
                yield f"{name} has {len(value)} numbers; it is a vector of {feature.dim}"
