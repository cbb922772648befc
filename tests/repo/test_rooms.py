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
TENSORFLOW_ROOM = {"rl_core/bandit/saved_model.py"}


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
        "rl_core.online.prediction_server",
        "rl_core.online.event_logger",
        "rl_core.online.joiner",
        "rl_core.online.simulator",
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
