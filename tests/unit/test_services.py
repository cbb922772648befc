"""Server and event logger are found, and ended, by whichever program looks for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_stack.services import Services
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError
from stand_ins.free_port import free_port

pytestmark = pytest.mark.process
YAML = Path(__file__).parents[2] / "dags" / "bandits" / "movielens.yaml"


def services(settings: Settings, env: dict[str, str]) -> Services:
    return Services(YAML, Bandit.from_yaml(YAML), settings, env)


@pytest.fixture
def env(repo: Path, settings: Settings) -> dict[str, str]:
    return {"PYTHONPATH": str(repo), "BANDIT_HOME": str(settings.home), "BANDIT_SERVER_PORT": str(free_port())}


@pytest.fixture
def running(settings: Settings, env: dict[str, str]) -> Iterator[Services]:
    made = services(settings, env)
    made.start()
    yield made
    made.stop()


def test_another_program_finds_them_does_not_start_them_twice_and_stops_them(
    running: Services, settings: Settings, env: dict[str, str]
) -> None:
    other = services(settings, env)
    server, logger = other.processes()
    assert [process.cmdline()[:4] for process in (server, logger)] == [
        [sys.executable, "-m", "rl_core", command] for command in ("serve", "log")
    ]
    with pytest.raises(BanditError, match=r"movielens is served already from .*; stop it first \(make down\)"):
        other.start()
    other.stop()
    assert other.processes() == running.processes() == []
    assert not server.is_running() or server.status() == "zombie"


def test_one_that_ends_at_once_is_named_with_its_last_line(settings: Settings, env: dict[str, str]) -> None:
    broken = services(settings, env | {"BANDIT_SERVER_PORT": "no port"})
    with pytest.raises(BanditError, match=r"(serve|log) ended with status \d+: .*BANDIT_SERVER_PORT"):
        broken.start()
    broken.stop()
    assert broken.processes() == []
