"""No test ends because the machine is busy: whatever it waits for has a limit that grows with the slowness."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
WITH_A_LIMIT_OF_THEIR_OWN = {"httpx.get", "httpx.post", "httpx.request", "httpx.Client"}
"""Which give up after five seconds where nothing is said."""


def fixed_limits(code: str) -> Iterator[str]:
    """The calls whose limit is a number, or is left to a library."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            left = "timeout" not in given and ast.unparse(node.func) in WITH_A_LIMIT_OF_THEIR_OWN
            if left or isinstance(given.get("timeout"), ast.Constant):
                yield f"line {node.lineno}: {ast.unparse(node)[:100]}"


def test_grow_with_the_slowness_of_the_machine() -> None:
    found = [f"{path.relative_to(TESTS)} {one}" for path in FILES for one in fixed_limits(path.read_text())]
    assert not found, "say timeout=patient(seconds), of tests.harness.patience"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("httpx.get(url)", 1),
        ("process.wait(timeout=20)", 1),
        ("httpx.get(url, timeout=patient(30))", 0),
        ("process.wait(patient(20))", 0),
    ],
)
def test_that_do_not_are_found(code: str, found: int) -> None:
    assert len(list(fixed_limits(code))) == found
