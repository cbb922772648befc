"""Loads the bandits of a folder. A bad YAML harms no other: one DAG file reports it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from rl_core.checking import read_bandits
from rl_core.config import Bandit
from rl_core.errors import ConfigError

_TOLD = 20
"""Faults in one import error, which is read on a page."""


def good_bandits(folder: Path) -> list[Bandit]:
    """Load the valid bandits of the folder, ordered by name. Raises ConfigError where it holds no YAML at all."""
    return list(_load(folder)[0])


def check_bandits(folder: str | Path) -> None:
    """Raise one ConfigError that says what is wrong with the YAMLs of the folder; none where all are right."""
    if problems := _load(Path(folder))[1]:
        more = f"; and {len(problems) - _TOLD} more: `banditloop check` names them" if len(problems) > _TOLD else ""
        raise ConfigError("; ".join(problems[:_TOLD]) + more)


@cache
def _load(folder: Path) -> tuple[tuple[Bandit, ...], tuple[str, ...]]:
    """Cached for the life of a parsing process: Airflow forks one for each file and each task."""
    good, problems = read_bandits(sorted(folder.glob("*.yaml")))
    if not good and not problems:
        raise ConfigError(f"{folder}: holds no *.yaml; describe a bandit there, or name the folder where they lie")
    return tuple(sorted(good.values(), key=lambda bandit: bandit.name)), tuple(problems)
