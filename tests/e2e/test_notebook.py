"""The notebook runs from its first cell to its last, on synthetic data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NOTEBOOK = Path("notebooks", "full_workflow.ipynb")


def test_it_is_stored_without_outputs(repo: Path) -> None:
    cells = json.loads((repo / NOTEBOOK).read_text())["cells"]
    assert not [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.long
@pytest.mark.tf
def test_every_cell_runs(
    repo: Path, tmp_path: Path, stack_env: dict[str, str], left_running: Callable[[], list[str]]
) -> None:
    cells = json.loads((repo / NOTEBOOK).read_text())["cells"]
    program = tmp_path / "notebook.py"
    program.write_text("\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    data = os.environ["BANDIT_MOVIELENS_DIR"]
    environment = stack_env | {"BANDIT_MOVIELENS_DIR": data, "PYTHONPATH": f"{repo}:{repo / 'plugins'}"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=False)

    done = python("-W", "ignore", str(program))
    if done.returncode:  # before the cell that stops the services
        python("-m", "local_stack", "down")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "movielens-v1-0003 → movielens-v1-0002" in done.stdout
    assert "'decisions_lost': 0, 'duplicates': 0" in done.stdout
    assert (tmp_path / "home" / "learning.png").stat().st_size > 10_000
    assert left_running() == []
