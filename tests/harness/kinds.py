"""Holds tests to their markers: what a test of a kind does, no unmarked test does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

STARTS_A_PROCESS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
NOT_FAST = ("process", "airflow", "browser", "tf")

_started: list[str] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event in STARTS_A_PROCESS:
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
    """Fail a test that did what its markers don't say, so that `make test-fast` stays fast."""
    had_tensorflow = "tensorflow" in sys.modules
    done = yield
    if _started and not any(item.get_closest_marker(kind) for kind in NOT_FAST):
        pytest.fail(f"this test starts a process, mark it `process`: {_started[0]}")
    if not had_tensorflow and "tensorflow" in sys.modules and not item.get_closest_marker("tf"):
        pytest.fail("this test imports TensorFlow, mark it `tf`")
    return done
