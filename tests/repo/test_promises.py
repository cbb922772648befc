"""What docs/reliability.md promises is tested by `make test`, not only by `make test-all`; and so is each area."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
ROWS = [
    line
    for line in (REPO / "docs" / "reliability.md").read_text().splitlines()
    if line.startswith("|") and "`tests/" in line
]
AREAS = sorted({path.parent.name for path in (REPO / "tests").glob("*/test_*.py")})


def left_to_test_all(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    if isinstance(node, ast.Module):
        marks = [
            one.value
            for one in node.body
            if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "pytestmark"
        ]
        return any("pytest.mark.long" in ast.unparse(mark) for mark in marks)
    return any(ast.unparse(decorator) == "pytest.mark.long" for decorator in node.decorator_list)


def kept(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    """Whether `make test` runs a test that is, or lies below, the node."""
    if left_to_test_all(node):
        return False
    if isinstance(node, ast.FunctionDef):
        return node.name.startswith("test_")
    return any(kept(below) for below in node.body if isinstance(below, ast.ClassDef | ast.FunctionDef))


def files(named: str) -> list[Path]:
    path = REPO / named
    return sorted(path.glob("test_*.py")) if path.is_dir() else [path]


def runs_in_make_test(paths: list[Path]) -> bool:
    return any(kept(ast.parse(path.read_text())) for path in paths)


@pytest.mark.parametrize("row", ROWS, ids=[re.sub(r"\W+", " ", row.split("|")[1]).strip()[:60] for row in ROWS])
def test_a_promise_is_kept_by_a_test_that_everybody_runs(row: str) -> None:
    named = [path for one in re.findall(r"`(tests/[\w./]*)`", row) for path in files(one)]
    assert [path for path in named if not path.exists()] == []
    assert runs_in_make_test(named), "each test of this promise is marked `long`"


@pytest.mark.parametrize("area", AREAS)
def test_an_area_has_a_test_that_everybody_runs(area: str) -> None:
    assert runs_in_make_test(files(f"tests/{area}"))


def test_a_test_that_is_left_to_test_all_is_seen_as_such() -> None:
    def kept_in(source: str) -> bool:
        return kept(ast.parse(source))

    test = "def test_it(): ..."
    assert kept_in(test)
    assert not kept_in(f"pytestmark = [pytest.mark.long, pytest.mark.tf]\n{test}")
    assert not kept_in(f"@pytest.mark.long\n{test}")
    assert not kept_in(f"@pytest.mark.long\nclass TestIt:\n    {test}")
    assert kept_in(f"class TestIt:\n    @pytest.mark.tf\n    {test}")
