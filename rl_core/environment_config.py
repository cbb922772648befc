"""The simulated worlds that a bandit may have, as its YAML says them: MovieLens, or a Python class of anybody's."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from rl_core.frozen import Frozen

_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _names_one(factory: str) -> str:
    if not _FACTORY.fullmatch(factory):
        raise ValueError("write the module, a colon and the name in it: package.module:name")
    return factory


class MovieLens(Frozen):
    """MovieLens as the simulated world.

    Attributes:
        kind: which world.
        movies: which movies are the actions: the first by id, or the most rated.
    """

    kind: Literal["movielens"] = "movielens"
    movies: Literal["first", "most_rated"] = "first"
    noise_sd: float = Field(default=0.0, ge=0, description="standard deviation of the reward noise, in stars")
    drift_from_round: int | None = Field(default=None, ge=0, description="from here on action a earns what a+1 earned")
    seed: int = Field(default=0, description="of users and noise")


class PythonWorld(Frozen):
    """A class with `observe` and `reward`, or an environment of TF-Agents, as the simulated world.

    It is imported by generator and simulator only: a DAG file or a server never runs it.

    Attributes:
        factory: what makes it, a class or a function: `package.module:name`.
    """

    kind: Literal["python"] = Field(description="which world")
    factory: Annotated[str, AfterValidator(_names_one)]
    arguments: dict[str, JsonValue] = Field(default={}, description="what the factory is called with, by name")


def _with_kind(given: Any) -> Any:
    """A YAML of before there were several kinds need not name one."""
    return {"kind": "movielens", **given} if isinstance(given, dict) else given


Environment = Annotated[MovieLens | PythonWorld, Field(discriminator="kind"), BeforeValidator(_with_kind)]
