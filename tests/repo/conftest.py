"""Reads Dockerfiles, as far as ours go."""

from __future__ import annotations

import fnmatch
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


@dataclass
class Stage:
    """What `FROM … AS name` begins: its base, and its instructions as (word, rest of the line)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == word]


class Dockerfile:
    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.arguments: dict[str, str] = {}
        self.stages: dict[str, Stage] = {}
        code = "\n".join(line for line in self.text.splitlines() if not line.lstrip().startswith("#"))
        last: Stage | None = None
        for line in re.sub(r"\\\n\s*", " ", code).splitlines():
            word, _, rest = line.strip().partition(" ")
            if word == "FROM":
                base, _, name = rest.partition(" AS ")
                last = self.stages[name or "final"] = Stage(name or "final", base)
            elif word == "ARG" and last is None:
                name, _, default = rest.partition("=")
                self.arguments[name] = default
            elif word and last is not None:
                last.instructions.append((word, rest.strip()))
            elif word:
                raise AssertionError(f"{path.name}: {line!r} before any FROM")

    def lineage(self, target: str) -> list[Stage]:
        """The stages that the target is built on, the target last."""
        stage = self.stages[target]
        return [*(self.lineage(stage.base) if stage.base in self.stages else []), stage]

    def copied(self, target: str) -> dict[str, str]:
        """Source below the repository -> destination below the working folder; what comes from stages is left out."""
        found: dict[str, str] = {}
        for rest in (rest for stage in self.lineage(target) for rest in stage.all("COPY")):
            if not rest.startswith("--from="):
                *sources, destination = rest.split()
                found |= {
                    s: f"{destination}{Path(s).name}" if destination.endswith("/") else destination for s in sources
                }
        return found

    def files(self, target: str, into: Path) -> Path:
        """Lay out what the target copies, below `into`, without what .dockerignore keeps away."""
        for source, destination in self.copied(target).items():
            path = into / destination
            path.parent.mkdir(parents=True, exist_ok=True)
            if (REPO / source).is_dir():
                shutil.copytree(REPO / source, path, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
            else:
                shutil.copy(REPO / source, path)
        return into

    @staticmethod
    def sent_to_the_builder(source: str) -> bool:
        """Whether .dockerignore lets the path through; later lines go first."""
        sent = True
        for line in (REPO / ".dockerignore").read_text().splitlines():
            pattern = line.removeprefix("!")
            if (
                line
                and not line.startswith("#")
                and (fnmatch.fnmatch(source, pattern) or source.startswith(f"{pattern}/"))
            ):
                sent = line.startswith("!")
        return sent


@pytest.fixture(scope="session")
def job() -> Dockerfile:
    return Dockerfile(REPO / "docker" / "job.Dockerfile")


@pytest.fixture(scope="session")
def airflow() -> Dockerfile:
    return Dockerfile(REPO / "docker" / "airflow.Dockerfile")
