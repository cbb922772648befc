"""A bandit of the storm's own under a folder of its own: small, with a short wait for rewards, and everything real."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import orjson
import yaml

from local_stack.airflow_stack import REPO
from reliability.storm.supervised import Supervised
from rl_core.config import Bandit, Settings
from rl_core.joining.event_logger import STATE_FILE
from rl_core.movielens.environment import MovieLensEnvironment, load_environment
from rl_core.movielens.synthetic import write_synthetic
from rl_core.waiting import wait_for
from stand_ins.free_port import free_port

ACTIONS = 8

BANDIT: dict[str, Any] = {
    "name": "storm",
    "prefix": "storm",
    "pipe_version": "v1",
    "problem": {
        "observation_dim": ACTIONS,
        "observation_version": "storm-k8",
        "actions": [f"movie-{item}" for item in range(1, ACTIONS + 1)],
        "action_set_version": "storm-8",
        "reward_min": -10.0,
        "reward_max": 15.0,
        "reward_default": 0.0,
    },
    "environment": {"kind": "movielens", "noise_sd": 1.0, "seed": 7},
    "agent": {"agent_alpha": 0.2, "tikhonov_weight": 0.01},
    "serving": {"epsilon": 0.2},
    "join": {"reward_wait_s": 4},
    "startup": {"source": "simulation", "rounds": 200, "seed": 1},
    "retrain": {"min_new_interactions": 300, "gate_timeout_s": 60, "poke_interval_s": 2, "run_timeout_s": 600},
}


class World:
    """Server and event logger of one bandit, supervised, and what one asks of them."""

    def __init__(self, folder: Path, changed: Mapping[str, Any] | None = None) -> None:
        """`changed` replaces sections of the bandit."""
        self.folder = Path(os.path.realpath(folder))
        self.home = self.folder / "home"
        ratings = self.folder / "ratings"
        for made in (self.home, ratings, self.folder / "dags" / "bandits"):
            made.mkdir(parents=True, exist_ok=True)
        write_synthetic(ratings / "u.data")
        content = {**BANDIT, **(changed or {})}
        self.yaml = self.folder / "dags" / "bandits" / f"{content['name']}.yaml"
        self.yaml.write_text(yaml.safe_dump(content))
        for dag in ("startup", "retrain"):
            shutil.copy(REPO / "dags" / f"{dag}.py", self.folder / "dags")
        self.bandit = Bandit.from_yaml(self.yaml)
        self.settings = Settings(home=self.home, movielens_dir=ratings, airflow_port=free_port())
        self.state_dir = self.settings.state_dir(self.bandit)
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment: MovieLensEnvironment = load_environment(self.bandit, self.settings)[0]
        self.server = self._program("serve", "--port", str(self.port))
        self.logger = self._program("log")
        self._http = httpx.Client(base_url=self.url, timeout=5.0, trust_env=False)

    def start(self, timeout_s: float = 60) -> None:
        """Return once both are up."""
        self.server.start()
        self.logger.start()
        wait_for(lambda: self.server_state() and self.logger_state(), timeout_s, "server and event logger", poll_s=0.05)

    def stop(self) -> None:
        """The server goes first, so that the logger sees its last words."""
        for program in (self.server, self.logger):
            program.stop()
        self._http.close()

    def server_state(self) -> dict[str, Any] | None:
        """What /state says, None where nobody answers."""
        try:
            answer = self._http.get("/state")
            state: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError):
            return None
        return state if answer.status_code == 200 else None

    def logger_state(self) -> dict[str, Any] | None:
        """What the event logger last wrote about itself."""
        with contextlib.suppress(OSError, ValueError):
            state: dict[str, Any] = orjson.loads((self.state_dir / STATE_FILE).read_bytes())
            return state
        return None

    def logging_since(self, at: float) -> bool:
        """Whether the present logger has had a cycle without error since `at` (seconds since 1970)."""
        state = self.logger_state()
        if state is None or state["error"] or state["stopped"] or state["pid"] != self.logger.pid:
            return False
        return _seconds(state["at"]) > at

    def _program(self, command: str, *arguments: str) -> Supervised:
        line = [sys.executable, "-m", "rl_core", command, str(self.yaml), *arguments]
        return Supervised(command, line, self.environment_variables(), self.folder / "logs" / f"{command}.log")

    def environment_variables(self) -> dict[str, str]:
        """Of every program of the storm."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("BANDIT_", "AIRFLOW", "PYTHONDONTWRITE"))}
        ours = {"BANDIT_HOME": str(self.home), "BANDIT_MOVIELENS_DIR": str(self.settings.movielens_dir)}
        return {**kept, **ours, "PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'plugins'}"}


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def pause_until(deadline: float) -> None:
    """Sleep until `time.monotonic()` is there."""
    time.sleep(max(0.0, deadline - time.monotonic()))
