"""The tree itself: sizes, links, and what must never be in it."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path

import yaml


def tracked(repo: Path, *patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=repo,
        capture_output=True,
        text=True,
        check=True,
    )
    return [repo / line for line in listed.stdout.splitlines() if (repo / line).is_file()]


def test_the_median_file_is_small(repo: Path) -> None:
    sizes = [len(path.read_text().splitlines()) for path in tracked(repo, "*.py") if path.name != "__init__.py"]
    assert statistics.median(sizes) <= 120


def test_a_dag_file_fits_sixty_lines(repo: Path) -> None:
    files = tracked(repo, "dags/*.py", "plugins/bandit_ops/airflow_dags/*.py")
    long = [path.name for path in files if len(path.read_text().splitlines()) > 60]
    assert not long, f"{long}: move logic to plugins/bandit_ops"


def test_a_commit_is_checked_as_make_lint_does(repo: Path) -> None:
    config = repo / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", str(config)], check=True)
    [source] = yaml.safe_load(config.read_text())["repos"]
    assert (source["repo"], [hook["entry"] for hook in source["hooks"]]) == ("local", ["make lint"])


def test_movielens_is_not_in_the_repository(repo: Path) -> None:
    assert not [p for p in tracked(repo) if p.name in {"u.data", "u.item", "u.user", "ml-100k.zip"}]


def test_every_relative_link_of_the_docs_leads_somewhere(repo: Path) -> None:
    broken = [
        f"{page.relative_to(repo)} -> {target}"
        for page in tracked(repo, "*.md")
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text())
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_every_make_target_in_the_docs_exists(repo: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repo / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for page in tracked(repo, "*.md")
        for name in re.findall(r"(?:^|`)make ([a-z][a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert named <= targets, f"the docs name targets that the Makefile lacks: {sorted(named - targets)}"
