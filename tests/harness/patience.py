"""How long tests wait: for a condition, never for a time, and longer on a machine that is slow or busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")

WORK = "total = 0\nfor number in range(6_000_000): total += number * number"
REFERENCE_S = 0.7
"""What WORK takes in one process for each core, on a machine of two cores with nothing else to do."""

_slowness = 1.0


def measure_slowness() -> float:
    """Return how many times longer than on the reference WORK takes here and now; at least 1."""
    begun = time.monotonic()
    workers = [subprocess.Popen([sys.executable, "-S", "-c", WORK]) for _ in range(os.cpu_count() or 1)]
    for worker in workers:
        worker.wait()
    return max(1.0, (time.monotonic() - begun) / REFERENCE_S)


def patient(seconds: float) -> float:
    """Return a limit that is `seconds` on the reference machine. Limits end what hangs; they judge no speed."""
    return seconds * _slowness


def until(true: Callable[[], T], what: str | Callable[[], str] = "it to come true", seconds: float = 60.0) -> T:
    """Return the first answer of `true` that is truthy. Fails with `what` when that takes too long."""
    deadline = time.monotonic() + patient(seconds)
    while not (found := true()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patient(seconds):.0f} s for {what() if callable(what) else what}")
        time.sleep(0.01)
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Measure once for each run; workers are told."""
    global _slowness
    given: dict[str, float] = getattr(config, "workerinput", {})
    _slowness = given["slowness"] if given else measure_slowness()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a worker of pytest-xdist, before it starts."""
    node.workerinput["slowness"] = _slowness  # type: ignore[attr-defined]


def pytest_report_header() -> str:
    return f"slowness: {_slowness:.1f} (time limits are that many times longer)"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    default = float(config.getini("timeout"))
    for item in items:
        marker = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout(patient(marker.args[0] if marker else default)), append=False)
