"""Whole programs under test: server processes for one bandit (`site`), and the whole stack (`stack_env`)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from local_stack.processes import command_line, living_with
from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.local.announcement import Announcement
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, Settings
from rl_core.errors import EndpointError
from rl_core.movielens.environment import MovieLensEnvironment
from rl_core.policy.artefact import write_artefact
from stand_ins.free_port import free_port
from tests.harness.patience import patient, until


class Site:
    """The shipped bandit, its state in a folder of the test, and server processes for it."""

    def __init__(self, repo: Path, bandit: Bandit, settings: Settings, stack: ExitStack) -> None:
        self.bandit, self.settings, self.state_dir = bandit, settings, settings.state_dir(bandit)
        self.registry = open_backend(bandit, settings).registry()
        self.port = free_port()
        self._repo, self._stack = repo, stack
        rng = np.random.default_rng(3)
        ratings = rng.integers(1, 6, size=(40, bandit.problem.num_actions)).astype(float)
        k = bandit.problem.num_actions
        self.environment = MovieLensEnvironment(ratings, min(20, k), k, noise_sd=1.0, seed=7)

    def take_another_port(self) -> None:
        self.port = free_port()

    def register(self, seed: int) -> str:
        rng, problem = np.random.default_rng(seed), self.bandit.problem
        observations = rng.standard_normal((2000, problem.observation_dim)).astype(np.float32)
        actions = rng.integers(problem.num_actions, size=2000)
        statistics = accumulate(observations, actions, rng.standard_normal(2000), problem.num_actions)
        artefact = self.settings.home / f"artefact-{seed}"
        write_artefact(artefact, problem, self.bandit.agent, statistics)
        return self.registry.register(artefact, Lineage(None, ()))

    def promote(self, seed: int) -> str:
        version = self.register(seed)
        self.registry.promote(version, self.registry.alias("champion"))
        return version

    def run(self, command: str, *arguments: str, **more_environment: str) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(
            [sys.executable, "-m", "rl_core", command, self.bandit.name, *arguments],
            cwd=self._repo,
            env={**kept, "BANDIT_HOME": str(self.settings.home), **more_environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._stack.callback(_end, process)
        return process

    def serve(self, **more_environment: str) -> subprocess.Popen[str]:
        """A server process that listens."""
        process = self.run("serve", "--port", str(self.port), **more_environment)

        def listens() -> bool:
            assert process.poll() is None, process.stdout and process.stdout.read()
            try:
                return Announcement.read(self.state_dir).pid == process.pid
            except EndpointError:
                return False

        until(listens, "the server to come up")
        return process

    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, content: Any) -> httpx.Response:
        return httpx.post(self.url() + path, json=content, timeout=patient(10), trust_env=False)

    def ask(self, event_id: str) -> dict[str, Any]:
        observation = self.environment.observations_f32[0].tolist()
        response = self.post("/predict", {"instances": [{"observation": observation, "event_id": event_id}]})
        assert response.status_code == 200, response.text
        prediction: dict[str, Any] = response.json()["predictions"][0]
        return prediction

    def on_the_bus(self, topic: Any = "decisions") -> list[dict[str, Any]]:
        bus = open_backend(self.bandit, self.settings).bus()
        try:
            return [orjson.loads(delivery.payload) for delivery in bus.read(topic, 0, 1_000_000)]
        finally:
            bus.close()


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.communicate()


def however_slow_the_disk(bandit: Bandit, monkeypatch: pytest.MonkeyPatch) -> Bandit:
    """The bandit of this process and its children, for whom a disk that stands still is no reason for a 503."""
    serving = bandit.serving.model_copy(update={"publish_deadline_s": 20.0})
    patient = bandit.model_copy(update={"serving": serving})
    monkeypatch.setenv("BANDIT_DEFINITION", patient.model_dump_json())
    return patient


@pytest.fixture
def movielens(movielens: Bandit, monkeypatch: pytest.MonkeyPatch) -> Bandit:
    return however_slow_the_disk(movielens, monkeypatch)


@pytest.fixture
def site(repo: Path, movielens: Bandit, settings: Settings) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(repo, movielens, settings, stack)


@pytest.fixture
def stack_env(tmp_path: Path) -> dict[str, str]:
    """The environment of a program that starts the stack under `tmp_path/home`."""
    from rl_core.movielens.data import synthetic_path
    from rl_core.movielens.synthetic import write_synthetic

    home = tmp_path / "home"
    write_synthetic(synthetic_path(home / "demo"))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BANDIT_", "AIRFLOW", "PYTHONDONTWRITE"))}
    return kept | {
        "BANDIT_HOME": str(home),
        "BANDIT_SERVER_PORT": str(free_port()),
        "BANDIT_AIRFLOW_PORT": str(free_port()),
    }


@pytest.fixture
def left_running(stack_env: dict[str, str]) -> Callable[[], list[str]]:
    """The command lines of live processes that were started with this test's BANDIT_HOME."""

    def find() -> list[str]:
        return [command_line(process)[:200] for process in living_with("BANDIT_HOME", stack_env["BANDIT_HOME"])]

    return find
