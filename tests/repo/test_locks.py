"""The locks: one resolution, hashed, without addresses, each side without the other's heavy packages."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from scripts.composer_bundle import needed

LOCKS = ("airflow", "job", "server", "functions", "postgres", "composer-22.4.0", "composer-22.8.0", "dev")


def pins(repo: Path, lock: str) -> dict[str, str]:
    text = (repo / "requirements" / f"{lock}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", text, re.MULTILINE))


def test_the_composer_side_has_no_tensorflow(repo: Path) -> None:
    assert not {"tensorflow", "tf-agents", "kfp"} & pins(repo, "airflow").keys()


def imported(path: Path) -> Iterator[str]:
    """The first names of what a file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_the_airflow_side_has_what_its_tasks_import_where_they_need_it(repo: Path) -> None:
    """As a module may be imported deep inside a function, no parsed DAG tells that it is missing."""
    plugins = sorted((repo / "plugins").rglob("*.py"))
    files = [*plugins, *(path for path in needed(repo, plugins) if path.suffix == ".py")]
    ours = {"rl_core", "bandit_ops", *sys.stdlib_module_names}
    makers, locked = packages_distributions(), pins(repo, "airflow").keys()
    missing = {
        f"{path.relative_to(repo)} imports {name}"
        for path in files
        for name in imported(path)
        if name not in ours and not {canonicalize_name(maker) for maker in makers.get(name, [])} & locked
    }
    assert not missing, "add it to requirements/airflow.in, and to the extra airflow"


@pytest.mark.parametrize("heavy", ["tensorflow", "kfp", "apache-airflow", "deltalake", "duckdb"])
def test_the_server_has_only_what_serves(repo: Path, heavy: str) -> None:
    assert heavy not in pins(repo, "server")


def test_the_vertex_side_has_no_airflow(repo: Path) -> None:
    assert not [name for name in pins(repo, "job") if name.startswith("apache-airflow")]


@pytest.mark.parametrize("lock", ["airflow", "job", "server", "functions"])
def test_a_side_pins_what_dev_pins(repo: Path, lock: str) -> None:
    dev = pins(repo, "dev")
    differing = {name: (v, dev.get(name)) for name, v in pins(repo, lock).items() if dev.get(name) != v}
    assert not differing, "run `make lock`"


@pytest.mark.parametrize("lock", [*LOCKS, "uv"])
def test_a_lock_is_hashed_and_names_no_address(repo: Path, lock: str) -> None:
    text = (repo / "requirements" / f"{lock}.txt").read_text()
    assert "://" not in text
    assert len(re.findall(r"^[a-z0-9].*==.*\\$", text, re.MULTILINE)) == len(pins(repo, lock)) > 0


@pytest.mark.parametrize("provider", ["22.4.0", "22.8.0"])
def test_the_environments_that_stand_for_composer_hold_nothing_of_ours(repo: Path, provider: str) -> None:
    asked = (repo / "requirements" / f"composer-{provider}.in").read_text().splitlines()
    airflow = pins(repo, "airflow")["apache-airflow"]
    assert [line for line in asked if not line.startswith("#")] == [
        f"apache-airflow=={airflow}",
        f"apache-airflow-providers-google=={provider}",
    ]
    assert not {"tensorflow", "kfp", "deltalake", "duckdb"} & pins(repo, f"composer-{provider}").keys()
