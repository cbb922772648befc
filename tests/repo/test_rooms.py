"""Who may import whom: the rooms of docs/architecture.md, kept by a machine."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RULES = {
    "dags": {"tensorflow", "tf_agents", "kfp", "google", "pandas", "numpy", "pipeline_defs", "rl_core"},
    "plugins": {"pipeline_defs", "kfp", "tensorflow", "tf_agents"},
    "pipeline_defs": {"airflow", "bandit_ops"},
    "rl_core": {"airflow", "kfp", "bandit_ops", "pipeline_defs", "local_stack"},
}
GROUND = {"config", "errors", "files", "framing", "clock", "frozen", "google_config", "schema"}
ARROWS = {
    "backends/contracts": set(),
    "backends/registry": {"backends/contracts"},
    "backends/local": {"backends/contracts", "backends/registry", "backends/conform", "dataset"},
    "backends/gcp": {"backends/contracts", "backends/registry", "backends/conform"},
    "bandit": {"backends/contracts"},
    "movielens": set(),
    "dataset": {"bandit", "backends/contracts"},
    "policy": {"bandit", "dataset", "backends/contracts"},
    "monitoring": {"policy", "bandit", "backends"},
    "serving": {"policy", "bandit", "backends"},
    "joining": {"monitoring", "backends"},
    "simulation": {"serving", "movielens", "backends"},
    "stages": {"joining", "policy", "dataset", "movielens", "bandit", "backends"},
}
"""Which rooms of rl_core a room may import besides itself and the ground floor; a room stands for those in it."""
TENSORFLOW_ROOM = {"rl_core/policy/saved_model.py"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", RULES)
def test_no_file_imports_what_its_room_forbids(repo: Path, room: str) -> None:
    wrong = [
        f"{path.relative_to(repo)} imports {name}"
        for path in sorted((repo / room).rglob("*.py"))
        for name in imports(path)
        if name in RULES[room]
    ]
    assert not wrong, f"{room}/ never imports {sorted(RULES[room])}: {wrong}"


def imported_modules(path: Path) -> Iterator[str]:
    """What a file imports of rl_core, as paths: `from rl_core.a import b` gives "a/b"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "rl_core":
            yield from (f"{node.module}.{alias.name}".partition(".")[2].replace(".", "/") for alias in node.names)


@pytest.mark.parametrize("room", ARROWS)
def test_arrows_between_the_rooms_of_rl_core_go_one_way(repo: Path, room: str) -> None:
    allowed = (room, *ARROWS[room], *GROUND)
    wrong = [
        f"{path.relative_to(repo)} imports {module}"
        for path in sorted((repo / "rl_core" / room).rglob("*.py"))
        for module in imported_modules(path)
        if not any(module == name or module.startswith(f"{name}/") for name in allowed)
    ]
    assert not wrong, f"{room} may import {sorted(ARROWS[room])}: {wrong}"


def test_tensorflow_is_imported_in_one_room_of_rl_core(repo: Path) -> None:
    users = {
        str(path.relative_to(repo))
        for path in (repo / "rl_core").rglob("*.py")
        if {"tensorflow", "tf_agents", "tf_keras"} & set(imports(path))
    }
    assert users <= TENSORFLOW_ROOM


@pytest.mark.parametrize(
    "module",
    [
        "rl_core.serving.server",
        "rl_core.joining.event_logger",
        "rl_core.joining.joiner",
        "rl_core.simulation.simulator",
        "rl_core.stages.generator",
        "rl_core.stages.ingester",
        "rl_core.stages.trainer",
        "rl_core.stages.evaluator",
        "rl_core.stages.deployer",
        "bandit_ops.runners.local",
    ],
)
def test_a_light_module_brings_nothing_heavy(repo: Path, module: str) -> None:
    heavy = ("tensorflow", "kfp", "airflow", "pandas", "google.api_core", "deltalake", "duckdb", "matplotlib")
    program = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{repo}:{repo / 'plugins'}"},
    )
    assert answer.stdout.strip() == "[]"
