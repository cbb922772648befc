"""Deals test files to the workers of pytest-xdist: the slow kinds first, real Airflows one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stand_ins.free_port import deal_only
from tests.harness.kinds import SLOW, kinds_of

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("airflow", "tf")
"""A kind whose files one worker takes as a whole: two Airflows at once take two cores from each other, and a worker
that imports TensorFlow needs ten seconds and half a gigabyte for it."""


def kind_of(path: Path) -> str:
    """Return the slowest kind of a file's tests, or "": a file is dealt as a whole."""
    return next((kind for kind in SLOW if kind in kinds_of(path)), "")


def group_of(path: Path) -> str:
    return kind_of(path) if kind_of(path) in TOGETHER else str(path)


def rank(path: Path) -> tuple[int, str]:
    return (*SLOW, "").index(kind_of(path)), group_of(path)


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker ports of its own."""
    if worker := getattr(config, "workerinput", None):
        deal_only(int(worker["workerid"].removeprefix("gw")), worker["workercount"])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Replace what `--dist` names. (`--dist loadgroup` of pytest-xdist 3.8 groups nothing under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath / nodeid.partition("::")[0])

    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.path))
