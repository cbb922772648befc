"""Servers and event loggers are found, and ended, by whichever program looks for them; several bandits side by side."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from local_stack.service_record import ServiceRecord
from local_stack.services import Services
from local_stack.stack import Stack
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError, ConfigError
from stand_ins.free_port import free_port
from tests.harness.patience import patient

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
    try:
        made.start(patient(30))
        yield made
    finally:
        made.stop()


def pids(one: Services) -> dict[str, int]:
    return {name: process.pid for name, process in one.running().items()}


def test_another_program_finds_them_does_not_start_them_twice_and_stops_them(
    running: Services, settings: Settings, env: dict[str, str]
) -> None:
    other, before = services(settings, env), pids(running)
    commands = {name: process.cmdline()[:4] for name, process in other.running().items()}
    assert commands == {name: [sys.executable, "-m", "rl_core", name] for name in ("serve", "log")}
    other.start()
    other.stop_started()
    assert pids(other) == before, "it started nothing, so it stops nothing"
    server = other.running()["serve"]
    other.stop()
    assert pids(other) == pids(running) == {}
    assert not server.is_running() or server.status() == "zombie"


def test_one_that_ended_is_started_again_and_the_other_stays(running: Services) -> None:
    before = pids(running)
    running.running()["log"].send_signal(signal.SIGKILL)
    running._children.pop("log").wait()
    running.start(patient(30))
    after = pids(running)
    assert list(after) == ["serve", "log"]
    assert after["serve"] == before["serve"]
    assert after["log"] != before["log"]


def test_one_that_ends_at_once_is_named_with_its_last_line(settings: Settings, env: dict[str, str]) -> None:
    broken = services(settings, env | {"BANDIT_SERVER_PORT": "no port"})
    with pytest.raises(BanditError, match=r"movielens: (serve|log) ended with status \d+: .*BANDIT_SERVER_PORT"):
        broken.start()
    broken.stop()
    assert broken.running() == {}


def yamls(folder: Path, *names: str, **serving: object) -> dict[Path, Bandit]:
    """Bandits of these names, which all want the same port."""
    folder.mkdir(exist_ok=True)
    for name in names:
        said = yaml.safe_load(YAML.read_text()) | {"name": name, "prefix": name}
        said["serving"] = {**said.get("serving", {}), **serving}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(said, sort_keys=False))
    return {path: Bandit.from_yaml(path) for path in sorted(folder.glob("*.yaml"))}


@contextmanager
def up(bandits: dict[Path, Bandit], settings: Settings) -> Iterator[tuple[Stack, list[str]]]:
    """Their services, without Airflow, and what could not be started."""
    stack = Stack(bandits, settings)
    try:
        yield stack, stack.start_services()
    finally:
        stack.stop()


def urls(stack: Stack) -> list[str]:
    return [open_backend(one.bandit, one.settings).line().where for one in stack.services]


def test_two_bandits_that_want_one_port_run_side_by_side_and_a_third_comes_later(
    settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    with up(yamls(tmp_path / "bandits", "first", "second", port=port), settings) as (stack, failed):
        assert failed == []
        assert urls(stack)[0] == f"http://127.0.0.1:{port}"
        assert len(set(urls(stack))) == 2
        for one in stack.services:
            state = open_backend(one.bandit, one.settings).endpoint().state()
            assert state["pid"] == one.running()["serve"].pid, "each bandit is answered by its own server"
        before, places = [pids(one) for one in stack.services], urls(stack)

        more = Stack(yamls(tmp_path / "bandits", "third", port=port), settings)
        assert more.start_services() == []
        assert [pids(one) for one in more.services[:2]] == before
        assert urls(more)[:2] == places
        assert urls(more)[2] not in places

        Stack({}, settings).stop()  # all their YAMLs may be gone by now
        assert [one.running() for one in more.services] == [{}, {}, {}]
        assert ServiceRecord.all_of(settings.home) == []
        more.stop()


def test_a_server_that_can_not_start_is_named_and_takes_nothing_down(settings: Settings, tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "bandits"
    good = yamls(folder, "good", port=port)
    (settings.home / "poor-v1" / "endpoint").mkdir(parents=True)
    (settings.home / "poor-v1" / "endpoint" / "salt").write_bytes(b"short")
    with up(good | yamls(folder, "poor", port=port), settings) as (stack, failed):
        assert len(failed) == 1
        assert re.match(r"poor: serve ended with status 2: .*salt holds 5 bytes", failed[0])
        running = {one.bandit.name: list(one.running()) for one in stack.services}
        assert running == {"good": ["serve", "log"], "poor": ["log"]}


def test_the_setting_moves_one_bandit_and_begins_a_range_for_several(settings: Settings, tmp_path: Path) -> None:
    port = free_port()
    moved = settings.model_copy(update={"server_port": port})
    bandits = yamls(tmp_path / "bandits", "first", "second", port=free_port())
    assert list(Stack(dict(list(bandits.items())[:1]), moved)._ports().values()) == [port]
    first, second = Stack(bandits, moved)._ports().values()
    assert first == port < second


def test_what_only_one_server_can_have_is_refused(settings: Settings, tmp_path: Path) -> None:
    bandits = yamls(tmp_path / "bandits", "first", "second")
    with pytest.raises(ConfigError, match="BANDIT_SERVER_URL names one server"):
        Stack(bandits, settings.model_copy(update={"server_url": "http://server:8471"}))._ports()
