"""Says all that is wrong with the YAMLs of some bandits: `banditloop check`, and Airflow's import error."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rl_core.config import Bandit


def read_bandits(paths: Iterable[Path]) -> tuple[dict[Path, Bandit], list[str]]:
    """Return the valid bandits by path, and a line for each thing that is wrong: with a YAML, or between two."""
    bandits: dict[Path, Bandit] = {}
    twins: dict[str, Path] = {}
    problems: list[str] = []
    for path in paths:
        bandit, wrong = Bandit.read(path)
        problems += wrong
        if bandit is None:
            continue
        if (twin := twins.setdefault(bandit.id, path)) == path:
            bandits[path] = bandit
        else:
            problems.append(
                f"{path}: prefix and pipe_version give {bandit.id!r}, which {twin.name} has already; change one of them"
            )
    return bandits, problems


def check(paths: Iterable[Path]) -> int:
    """Print a line for each valid YAML and for each thing that is wrong with the others; 1 where anything is."""
    bandits, problems = read_bandits(paths)
    print("\n".join([*(f"{path}: ok" for path in bandits), *problems]), flush=True)
    return 1 if problems else 0
