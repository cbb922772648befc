"""`banditloop status` beside real servers and loggers: what it tells, and that its exit status can be relied on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from local_stack.stack import Stack
from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Attempt
from rl_core.config import Bandit, Settings
from rl_core.monitoring import status
from stand_ins.free_port import free_port
from tests.e2e.conftest import Site
from tests.harness.imports import brought, loaded_by
from tests.harness.patience import patient, until

SHIPPED = Path(__file__).parents[2] / "dags" / "bandits" / "movielens.yaml"


@pytest.fixture
def yamls(tmp_path: Path) -> dict[Path, Bandit]:
    """Two bandits that want the same port."""
    port, bandits = free_port(), {}
    for name in ("first", "second"):
        said = yaml.safe_load(SHIPPED.read_text()) | {"name": name, "prefix": name}
        said["serving"] = {**said.get("serving", {}), "port": port}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(said))
        bandits[path] = Bandit.from_yaml(path)
    return bandits


@pytest.fixture
def stack(yamls: dict[Path, Bandit], settings: Settings) -> Iterator[Stack]:
    made = Stack(yamls, settings)
    try:
        assert made.start_services() == []
        yield made
    finally:
        made.stop()


def post(url: str, content: object) -> httpx.Response:
    return httpx.post(url, json=content, trust_env=False, timeout=patient(30))


def ask(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rl_core", "status", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=patient(60))


def told(*words: object) -> tuple[int, dict[str, dict[str, Any]]]:
    done = ask("--json", *words)
    assert done.stderr == ""
    return done.returncode, {one["bandit"]: one for one in json.loads(done.stdout)}


def test_two_bandits_are_told_apart_while_they_serve_and_when_one_does_not(
    stack: Stack, yamls: dict[Path, Bandit], settings: Settings
) -> None:
    rc, found = told(*yamls)
    assert rc == 0, found
    urls = {one.bandit.name: open_backend(one.bandit, settings).line().where for one in stack.services}
    for name in ("first", "second"):
        one = found[name]
        assert (one["server"], one["status"], one["serves"]) == (urls[name], "cold start", "uniform")
        assert (one["logger"], one["champion"], one["last_attempt"], one["faults"]) == (True, None, None, [])
    assert found["first"]["server"] != found["second"]["server"]

    observation = [0.5, *[0.0] * 19]
    instances = [{"event_id": f"visit-{n}", "observation": observation} for n in range(3)]
    assert post(f"{urls['second']}/predict", {"instances": instances}).status_code == 200
    second = list(yamls.values())[1]
    until(lambda: (log := status.status_of(second, settings).log) is not None and log.open == 3, "three open decisions")
    log = told(*yamls)[1]
    assert (log["first"]["log"]["open"], log["second"]["log"]["lag"]) == (0, 0)

    logger = stack.services[1].running()["log"]
    logger.send_signal(signal.SIGKILL)
    stack.services[1]._children["log"].wait()
    post(f"{urls['second']}/reward", {"rewards": [{"event_id": "visit-0", "reward": 4}]})
    rc, found = told(*yamls)
    assert rc == 1
    assert (found["first"]["logger"], found["first"]["faults"]) == (True, [])
    assert (found["second"]["logger"], found["second"]["log"]["lag"]) == (False, 1)
    assert found["second"]["faults"] == ["no event logger is at work: make up, or banditloop log"]

    server = stack.services[0].running()["serve"]
    server.send_signal(signal.SIGKILL)
    stack.services[0]._children["serve"].wait()
    rc, found = told(*yamls)
    assert (rc, found["first"]["status"]) == (1, None)
    assert "is gone; start the server" in " ".join(found["first"]["faults"])
    assert (found["second"]["status"], found["second"]["serves"]) == ("cold start", "uniform")


def test_the_champion_and_the_last_attempt_are_told(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    version = site.register(1)
    site.registry.promote(version, None, attempt(version, "promoted", "better than nothing"))
    site.registry.record(attempt(site.register(2), "rejected", "worse by 0.3"))
    site.serve()
    site.run("log")
    backend = open_backend(site.bandit, site.settings)
    until(backend.logger_lives, "the logger to be at work")
    assert status.main([], site.settings.model_copy(update={"definition": site.bandit.model_dump_json()}), False) == 0
    said = capsys.readouterr().out
    assert f"champion     {version} since 2026-06-01T12:00:00+00:00" in said
    assert f"server       {site.url()}, ok, serves {version}" in said
    assert "logger       at work" in said
    assert "log          0 interactions, 0 decisions open, 0 events not stored yet" in said
    assert "new          0 of the 8,000 interactions that a retrain waits for" in said
    assert "last attempt rejected 2026-06-01T12:00:00+00:00: worse by 0.3" in said


def attempt(version: str, verdict: Any, reason: str) -> Attempt:
    return Attempt(version, (), verdict, version, "manual", reason, datetime(2026, 6, 1, 12, tzinfo=UTC))


def test_what_was_never_started_is_said_and_nothing_is_made(settings: Settings) -> None:
    rc, found = told("movielens")
    assert rc == 1
    assert found["movielens"]["registry"] is True
    assert len(found["movielens"]["faults"]) == 2
    assert not settings.state_dir(Bandit.from_yaml(SHIPPED)).exists()


def test_a_bad_yaml_is_named_and_hides_no_other(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\n")
    done = ask("movielens", tmp_path / "bad.yaml")
    assert done.returncode == 1
    assert done.stdout.startswith("movielens (movielens-v1)\n")
    assert done.stderr.startswith(f"passed over {tmp_path / 'bad.yaml'}: ")


def test_on_google_cloud_what_can_not_be_asked_is_said(
    cloud_movielens: Bandit, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "not-there.json"))
    found = status.status_of(cloud_movielens, settings)
    assert (found.registry, found.log, found.logger) == (False, None, None)
    assert found.faults == [
        "no Google credentials: run as a service account, or `gcloud auth application-default login`"
    ]
    assert "  log          in BigQuery, not asked; the DAG …_join logs its vital signs" in found.lines()
    assert "  champion     ?" in found.lines()


def test_it_is_light(repo: Path) -> None:
    loaded = loaded_by({"status": "import rl_core.monitoring.status"}, repo)
    assert brought(loaded["status"], ("tensorflow", "airflow", "kfp", "deltalake", "duckdb")) == []
