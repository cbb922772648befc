"""Loads the bandits of a folder. A bad YAML harms no other: one DAG file reports it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from rl_core.config import Bandit
from rl_core.errors import ConfigError


def good_bandits(folder: Path) -> list[Bandit]:
    """Load the valid bandits of the folder, ordered by name. Raises ConfigError where it holds no YAML at all."""
    return list(_load(folder)[0])


def check_bandits(folder: str | Path) -> None:
    """Raise one ConfigError that names every YAML of the folder that is no bandit, and why; none where all are."""
    if problems := _load(Path(folder))[1]:
        raise ConfigError("; ".join(problems))


@cache
def _load(folder: Path) -> tuple[tuple[Bandit, ...], tuple[str, ...]]:
    """Cached for the life of a parsing process: Airflow forks one for each file and each task."""
    good: dict[str, Bandit] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            bandit = Bandit.from_yaml(path)
        except ConfigError as error:
            problems.append(str(error))
            continue
        twin = good.setdefault(bandit.id, bandit)
        if twin is not bandit:
            problems.append(
                f"{path}: prefix and pipe_version give {bandit.id!r}, which {twin.name}.yaml has already; "
                "change one of them"
            )
    if not good and not problems:
        raise ConfigError(f"{folder}: holds no *.yaml; describe a bandit there, or name the folder where they lie")
    return tuple(sorted(good.values(), key=lambda bandit: bandit.name)), tuple(problems)
