"""A machine's worth of the whole stack: free ports, state in a folder of its own, synthetic data, no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def stack_env(tmp_path: Path) -> dict[str, str]:
    """The environment of a program that starts the stack under `tmp_path/home`."""
    from rl_core.bandit.movielens_data import synthetic_path
    from rl_core.bandit.movielens_synthetic import write_synthetic

    home = tmp_path / "home"
    write_synthetic(synthetic_path(home / "demo"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BANDIT_", "AIRFLOW", "PYTHONDONTWRITE"))}
    return kept | {
        "BANDIT_HOME": str(home),
        "BANDIT_SERVER_PORT": str(_free_port()),
        "BANDIT_AIRFLOW_PORT": str(_free_port()),
    }


@pytest.fixture
def left_running(stack_env: dict[str, str]) -> Callable[[], list[str]]:
    """The command lines of live processes that were started with this test's BANDIT_HOME."""

    def find() -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                home = process.environ().get("BANDIT_HOME", "")
                if home.startswith(stack_env["BANDIT_HOME"]) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:200])
            except psutil.Error:
                continue
        return found

    return find
