"""The notebook runs from its first cell to its last in a Jupyter kernel, on synthetic data."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from local_stack.processes import living_with, send
from tests.harness.patience import patient

NOTEBOOK = Path("notebooks", "full_workflow.ipynb")


@pytest.fixture
def notebook(repo: Path) -> nbformat.NotebookNode:
    return nbformat.read(repo / NOTEBOOK, as_version=4)


@pytest.fixture
def executed(
    repo: Path, tmp_path: Path, stack_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[nbformat.NotebookNode], str]]:
    """What cells print, in a kernel of their own, which is shut down as Jupyter does it. Raises CellExecutionError."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    data = os.environ["BANDIT_MOVIELENS_DIR"]
    environment = stack_env | {"BANDIT_MOVIELENS_DIR": data, "IPYTHONDIR": str(tmp_path / "ipython")}

    def execute(notebook: nbformat.NotebookNode) -> str:
        client = NotebookClient(notebook, timeout=int(patient(300)), resources={"metadata": {"path": str(repo)}})
        client.create_kernel_manager().shutdown_wait_time = patient(60)
        client.execute(env=environment)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        return "".join(output.get("text", "") for output in outputs)

    yield execute
    send(signal.SIGKILL, living_with("BANDIT_HOME", stack_env["BANDIT_HOME"]))


def test_it_is_stored_without_outputs(notebook: nbformat.NotebookNode) -> None:
    assert not [cell["id"] for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.long
@pytest.mark.process
@pytest.mark.tf
def test_every_cell_runs(
    notebook: nbformat.NotebookNode,
    executed: Callable[[nbformat.NotebookNode], str],
    tmp_path: Path,
    left_running: Callable[[], list[str]],
) -> None:
    printed = executed(notebook)
    assert "movielens-v1-0003 → movielens-v1-0002" in printed
    assert "'decisions_lost': 0, 'duplicates': 0" in printed
    assert (tmp_path / "home" / "learning.png").stat().st_size > 10_000
    assert "promoted shop-v1-0001" in printed, "the reader's own CSV becomes a policy"
    assert re.search(r"25 years: (tent, of probability 0.967|\w+, of probability 0.017), by shop-v1-0001", printed)
    assert left_running() == []


@pytest.mark.long
@pytest.mark.process
def test_a_cell_that_fails_leaves_no_service_behind(
    notebook: nbformat.NotebookNode,
    executed: Callable[[nbformat.NotebookNode], str],
    tmp_path: Path,
    left_running: Callable[[], list[str]],
) -> None:
    wanted = ("import json\n", "import atexit\n")
    notebook.cells = [cell for cell in notebook.cells if cell.source.startswith(wanted)]
    notebook.cells.append(nbformat.v4.new_code_cell("assert len(services.processes()) == 0, 'both run'"))
    with pytest.raises(CellExecutionError, match="both run"):
        executed(notebook)
    assert list((tmp_path / "home" / "logs").iterdir()), "they were started"
    assert left_running() == []
