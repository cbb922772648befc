"""The server's token and the salt of its draws are in no log, no answer and no file but their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from bandit_ops.runners.base import JobState, Parameters
from bandit_ops.runners.launch import child_environment
from bandit_ops.runners.local import LocalRunner
from local_stack.airflow_stack import AirflowStack
from rl_core.backends.local.announcement import Announcement
from rl_core.config import Bandit, ServingContainer, Settings
from rl_core.errors import EndpointError
from rl_core.serving import parts
from tests.e2e.conftest import Site
from tests.harness.patience import patient, until

TOKEN = "a-token-of-the-test-0123456789"
PROGRAM = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from rl_core.__main__ import run
sys.exit(run())
"""


@pytest.fixture
def site(repo: Path, movielens: Bandit, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("BANDIT_SERVER_TOKEN", TOKEN)
    with ExitStack() as stack:
        site = Site(repo, movielens, settings, stack)
        site.promote(1)
        yield site


def start(site: Site, repo: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A program of ours that logs all it can."""
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-X", "dev", "-c", PROGRAM, *arguments], cwd=repo, stdout=out, stderr=out
        )


def announced(site: Site) -> bool:
    try:
        return bool(Announcement.read(site.state_dir))
    except EndpointError:
        return False


def test_neither_is_ever_shown(site: Site, repo: Path, tmp_path: Path) -> None:
    logs = {name: tmp_path / f"{name}.log" for name in ("serve", "log", "simulate")}
    server = start(site, repo, logs["serve"], "serve", "movielens", "--port", str(site.port))
    logger = start(site, repo, logs["log"], "log", "movielens")
    try:
        until(lambda: announced(site), lambda: f"the server: {logs['serve'].read_text()}")
        simulator = start(site, repo, logs["simulate"], "simulate", "movielens", "--decisions", "50")
        assert simulator.wait(timeout=patient(60)) == 0, logs["simulate"].read_text()
        shown = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=site.url(), trust_env=False, timeout=patient(30)) as client:
            told = [client.get(path, headers=shown) for path in ("/", "/state", "/metrics", "/openapi.json", "/health")]
            told += [client.get("/state", headers={"authorization": f"Bearer {TOKEN}x"})]
            told += [client.post("/predict", headers=shown, content=b"no"), client.get("/nowhere", headers=shown)]
    finally:
        for process in (server, logger):
            process.terminate()
        assert [process.wait(timeout=patient(30)) for process in (server, logger)] == [0, 0]
    salt = (site.state_dir / "endpoint" / "salt").read_bytes()
    secrets = secrets_of(salt)
    for name, secret in secrets.items():
        for response in told:
            assert secret not in response.content, (name, response.url)
            assert secret not in repr(response.headers).encode(), (name, response.url)
    assert_no_file_holds(secrets, (*logs.values(), *site.settings.home.rglob("*")))


def secrets_of(salt: bytes) -> dict[str, bytes]:
    """As they may be written, by what they are called."""
    shown = {"salt in hex": salt.hex().encode(), "salt, shown": repr(salt).encode()}
    return {"token": TOKEN.encode(), "salt": salt, **shown}


def assert_no_file_holds(secrets: Mapping[str, bytes], files: Iterable[Path]) -> None:
    """But the salt's own."""
    for file in files:
        if file.is_file() and file.name != "salt":
            content = file.read_bytes()
            for name, secret in secrets.items():
                assert secret not in content, (name, file)


@pytest.mark.tf
def test_neither_is_left_behind_by_a_pipeline_job(movielens: Bandit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDIT_SERVER_TOKEN", TOKEN)
    settings = Settings.from_environment()
    with parts.opened(movielens, settings, ServingContainer()) as opened:
        salt = opened.salt
    runner = LocalRunner(movielens, settings)
    who: Parameters = {"bandit": movielens.job_json(), "job_id": "born", "champion": "", "full_retrain": False}
    given: Parameters = {"rounds": 200, "seed": 1, "trigger": "startup", **movielens.agent.numbers}
    runner.submit("born", "startup", who | given)
    status = until(lambda: (found := runner.status("born")) and found.state.terminal and found, "the job to end", 300)
    state_dir = settings.state_dir(movielens)
    assert status
    assert status.state is JobState.SUCCEEDED, (state_dir / "runs" / "born" / "log.txt").read_text()
    places = (settings.home / "cache", *(state_dir / name for name in ("runs", "store", "registry", "experiments")))
    assert [place for place in places if not any(place.rglob("*"))] == [], "the job leaves files everywhere"
    assert_no_file_holds(secrets_of(salt), settings.home.rglob("*"))


def test_settings_show_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDIT_SERVER_TOKEN", TOKEN)
    settings = Settings.from_environment()
    assert TOKEN not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_children_get_it_as_it_is(settings: Settings, monkeypatch: pytest.MonkeyPatch, repo: Path) -> None:
    monkeypatch.setenv("BANDIT_SERVER_TOKEN", TOKEN)
    settings = Settings.from_environment()
    assert child_environment(settings, repo)["BANDIT_SERVER_TOKEN"] == TOKEN
    assert AirflowStack(settings).environment()["BANDIT_SERVER_TOKEN"] == TOKEN
    assert settings.variables().keys() >= {"BANDIT_HOME", "BANDIT_MOVIELENS_DIR"}
