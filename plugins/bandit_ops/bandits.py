"""Loads the bandits that lie next to the DAG files. A bad YAML harms no other: one DAG file reports it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from rl_core.config import Bandit
from rl_core.errors import ConfigError


def good_bandits(dag_file: str) -> list[Bandit]:
    """Load the valid bandits of `bandits/` next to a DAG file, by name; `__file__` is the argument."""
    return list(_load(Path(dag_file).resolve().parent / "bandits")[0])


def check_bandits(dag_file: str) -> None:
    """Raise one ConfigError naming every file that is not a bandit, and why."""
    problems = _load(Path(dag_file).resolve().parent / "bandits")[1]
    if problems:
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
        problems.append(f"{folder}: holds no *.yaml; describe a bandit there")
    return tuple(sorted(good.values(), key=lambda bandit: bandit.name)), tuple(problems)
