"""`python -m rl_core bus cat`: what is on the bus, as JSON lines, beside those who use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl_core.__main__ import run
from rl_core.backends import open_backend
from rl_core.backends.contracts.bus import Message, MessageBus
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError


@pytest.fixture
def bus(tmp_path: Path, movielens: Bandit, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BANDIT_HOME", str(tmp_path))
    bus = open_backend(movielens, Settings(home=tmp_path)).bus()
    yield bus
    bus.close()


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert run(["bus", "cat", "movielens", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def publish(bus: MessageBus, count: int) -> None:
    bus.publish([Message("decisions", f"key-{n}", b'"action":%d}' % n, b'{"epsilon":0.05,') for n in range(count)])
    bus.publish([Message("rewards", f"key-{n}", b'{"reward":%d}' % n) for n in range(count)])


def test_shows_both_topics_with_what_their_messages_share(bus: MessageBus, capsys: pytest.CaptureFixture[str]) -> None:
    publish(bus, 2)
    lines = shown(capsys)
    assert [(line["topic"], line["offset"], line["key"], line["payload"]) for line in lines] == [
        ("decisions", 1, "key-0", {"epsilon": 0.05, "action": 0}),
        ("decisions", 2, "key-1", {"epsilon": 0.05, "action": 1}),
        ("rewards", 1, "key-0", {"reward": 0}),
        ("rewards", 2, "key-1", {"reward": 1}),
    ]
    assert lines[0]["received_at"] == bus.read("decisions", 0)[0].received_at.isoformat(timespec="microseconds")


def test_begins_and_ends_where_it_is_told_to(bus: MessageBus, capsys: pytest.CaptureFixture[str]) -> None:
    publish(bus, 10)
    lines = shown(capsys, "--topic", "rewards", "--after", "6", "--limit", "3")
    assert [line["offset"] for line in lines] == [7, 8, 9]


def test_shows_what_is_gone_and_what_is_no_json(bus: MessageBus, capsys: pytest.CaptureFixture[str]) -> None:
    bus.publish([Message("decisions", "a", b"no JSON \xff"), Message("decisions", "b", b"")])
    bus.forget(["b"])
    assert [(line["key"], line["payload"]) for line in shown(capsys)] == [("a", "no JSON \ufffd"), ("", None)]


def test_follows_until_it_is_interrupted(bus: MessageBus) -> None:
    publish(bus, 1)
    command = [sys.executable, "-m", "rl_core", "bus", "cat", "movielens", "--topic", "rewards", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert json.loads(program.stdout.readline())["offset"] == 1
        bus.publish([Message("rewards", "late", b"{}")])
        assert json.loads(program.stdout.readline())["key"] == "late"
        program.terminate()


def test_without_a_bus_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDIT_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="has no bus yet"):
        run(["bus", "cat", "movielens"])
    assert list(tmp_path.iterdir()) == []
