"""The kinds of tests, which `make test-fast` leaves out, and what holds tests to them."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STARTS_A_PROCESS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
ASKED_BY_PLATFORM = {("file",), ("uname",)}
"""Programs by which the standard library's `platform` describes the machine, once, to whoever imports this or that."""
SLOW = ("airflow", "browser", "tf", "process", "emulated")
"""Slowest first."""
BY_ITSELF = {
    "process": re.compile(r"import (subprocess|Site)\b|os\.fork\("),
    "emulated": re.compile(r"\bstand_ins\.(?!free_port\b)|\bprovisioning_world\b"),
}
"""Kinds that every test of a file gets in whose text this is found."""

_started: list[str] = []


@functools.cache
def kinds_of(path: Path) -> frozenset[str]:
    """Return the kinds of a file: those its tests are marked with, and those it has by itself."""
    text = path.read_text()
    marked = {kind for kind in SLOW if f"pytest.mark.{kind}" in text}
    return frozenset(marked | by_itself(path))


@functools.cache
def by_itself(path: Path) -> frozenset[str]:
    text = path.read_text()
    return frozenset(kind for kind, pattern in BY_ITSELF.items() if pattern.search(text))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for kind in by_itself(item.path):
            item.add_marker(kind)


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event in STARTS_A_PROCESS and arguments[:1] not in ASKED_BY_PLATFORM:
        _started.append(f"{event} {arguments[:2]}"[:200])


def pytest_configure() -> None:
    sys.addaudithook(_listen)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Forget what happened between tests: pytest's own."""
    _started.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that did what its markers don't say, so that `make test-fast` stays what it says."""
    had_tensorflow = "tensorflow" in sys.modules
    done = yield
    if _started and not any(item.get_closest_marker(kind) for kind in SLOW):
        pytest.fail(f"this test starts a process, mark it `process`: {_started[0]}")
    if not had_tensorflow and "tensorflow" in sys.modules and not item.get_closest_marker("tf"):
        pytest.fail("this test imports TensorFlow, mark it `tf`")
    return done
