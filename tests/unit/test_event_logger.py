"""The event logger: everything acknowledged gets into the store, once, whatever happens to the logger."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa
import pytest

from rl_core.backends import open_backend
from rl_core.backends.contracts.bus import Message, MessageBus
from rl_core.backends.contracts.store import JoinableStore
from rl_core.backends.local.store.delta.table import DeltaTable
from rl_core.config import Bandit, Join, Settings
from rl_core.errors import StoreError
from rl_core.joining.event_logger import EventLogger, drain
from rl_core.schema import DECISION
from tests.harness.patience import patient, until

REPOSITORY = Path(__file__).parents[2]
RUN = """
import logging, sys
from rl_core.config import Bandit, Settings
from rl_core.joining import event_logger
logging.basicConfig(level=logging.INFO)
sys.exit(event_logger.main(Bandit.from_json(sys.argv[1]), Settings.from_environment()))
"""


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    return movielens.model_copy(update={"join": Join(reward_wait_s=60, close_early=True)})


@pytest.fixture
def bus(bandit: Bandit, settings: Settings) -> Iterator[MessageBus]:
    bus = open_backend(bandit, settings).bus()
    yield bus
    bus.close()


@pytest.fixture
def store(bandit: Bandit, settings: Settings) -> JoinableStore:
    return cast(JoinableStore, open_backend(bandit, settings).store())


@pytest.fixture
def logger(bandit: Bandit, bus: MessageBus, store: JoinableStore) -> EventLogger:
    return EventLogger(bandit, bus, store)


@pytest.fixture
def start(bandit: Bandit) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a real logger; all of them are gone afterwards."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RUN, bandit.model_dump_json()]
        started.append(subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for program in started:
        program.kill()
        program.wait()
        if program.stderr is not None:
            program.stderr.close()


def payload(event_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "decided_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "policy_version": "movielens-v1-0001",
        "observation": [0.5, -1.25, 0.0],
        "observation_version": "o1",
        "action_id": "movie-3",
        "action": 2,
        "action_set_version": "a1",
        "eligible_actions": [0, 1, 2],
        "propensity": 0.9666666666666667,
        "epsilon": 0.05,
        "seed_stream": None,
        "source": "client",
        "served": True,
        "rollout_stage": None,
        "schema_version": 1,
        "policy_info": {"why": "é"},
        **changes,
    }


def decision(event_id: str, **changes: Any) -> Message:
    return Message("decisions", event_id, orjson.dumps(payload(event_id, **changes)))


def reward(event_id: str, value: float = 4.5) -> Message:
    observed_at = datetime.now(UTC).isoformat(timespec="microseconds")
    return Message(
        "rewards", event_id, orjson.dumps({"event_id": event_id, "reward": value, "observed_at": observed_at})
    )


def rejected(store: JoinableStore) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.query('SELECT * FROM rejected_events ORDER BY kind, "offset"').to_pylist()
    return rows


class TestOneCycle:
    def test_carries_every_value_and_the_buss_stamps(
        self, bus: MessageBus, store: JoinableStore, logger: EventLogger
    ) -> None:
        sent = decision("a")
        (receipt,) = bus.publish([sent])
        logger.run_once()
        (row,) = store.since("decisions", {}).to_pylist()
        known = orjson.loads(sent.payload)
        expected = {
            **dict.fromkeys(column.name for column in DECISION),
            **known,
            "decided_at": datetime.fromisoformat(known["decided_at"]),
            "policy_info": [("why", "é")],
            "received_at": receipt.received_at,
            "producer": bus.producer,
            "offset": 1,
        }
        assert row == expected
        assert list(row) == [column.name for column in DECISION]

    def test_joins_what_it_carried(self, bus: MessageBus, store: JoinableStore, logger: EventLogger) -> None:
        bus.publish([decision("a"), reward("a"), decision("b")])
        cycle = logger.run_once()
        assert str(cycle) == "+2 decisions, +1 rewards; 1 joined, 0 rewards set apart; head 1, 1 open"
        assert store.interactions((0, 1), ["event_id", "reward"]).to_pylist() == [{"event_id": "a", "reward": 4.5}]
        assert not logger.run_once()

    def test_leaves_nothing_behind_that_was_acknowledged_before_it(
        self, bandit: Bandit, settings: Settings, bus: MessageBus, store: JoinableStore
    ) -> None:
        for start in range(0, 12_000, 4_000):
            bus.publish([decision(str(n)) for n in range(start, start + 4_000)])
        assert drain(bandit, settings).decisions == 12_000
        assert store.last_offset("decisions", bus.producer) == 12_000

    def test_timed_out_decisions_earn_the_default(self, bandit: Bandit, bus: MessageBus, store: JoinableStore) -> None:
        quick = bandit.model_copy(update={"join": Join(reward_wait_s=0.05)})
        logger = EventLogger(quick, bus, store)
        bus.publish([decision("a")])
        first = logger.run_once()  # closes it already where this machine was slow
        time.sleep(0.06)
        assert first.interactions + logger.run_once().interactions == 1
        assert store.interactions((0, 1), ["closed_by"])["closed_by"].to_pylist() == ["timeout"]


class TestWhatDoesNotFitTheLog:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"action_id": None}, "action_id is missing"),
            ({"action": "two"}, "action: "),
            ({"observation": [1.0, "x"]}, "observation: "),
            ({"decided_at": "yesterday"}, "Invalid isoformat"),
            ({"decided_at": "2026-01-01T00:00:00"}, "decided_at has no offset from UTC"),
        ],
    )
    def test_is_set_apart_with_its_reason_and_nothing_waits_for_it(
        self, bus: MessageBus, store: JoinableStore, logger: EventLogger, changes: dict[str, Any], says: str
    ) -> None:
        bad = decision("b", **changes)
        _, receipt, _ = bus.publish([decision("a"), bad, decision("c")])
        assert logger.run_once().decisions == 2
        assert store.since("decisions", {})["event_id"].to_pylist() == ["a", "c"]
        (row,) = rejected(store)
        assert re.search(rf"decisions offset 2 on the bus \(event_id 'b'\) doesn't fit.*{says}", row.pop("reason"))
        assert row == {
            "kind": "decision",
            "received_at": receipt.received_at,
            "producer": bus.producer,
            "offset": 2,
            "payload": bad.payload.decode(),
        }
        assert store.last_offset("decisions", bus.producer) == 3
        assert not logger.run_once()

    def test_no_json_at_all(self, bus: MessageBus, store: JoinableStore, logger: EventLogger) -> None:
        bus.publish([Message("rewards", "a", b"\xff"), Message("rewards", "a", b"[1]"), Message("rewards", "a", b"")])
        logger.run_once()
        assert [row["payload"] for row in rejected(store)] == ["\ufffd", "[1]", ""]
        assert store.last_offset("rewards", bus.producer) == 3
        bus.publish([decision("a"), reward("a")])
        assert logger.run_once().interactions == 1

    def test_among_many_is_found(self, bus: MessageBus, store: JoinableStore, logger: EventLogger) -> None:
        bus.publish([decision(str(n), **({"action_id": None} if n % 700 == 3 else {})) for n in range(3000)])
        assert logger.run_once().decisions == 2995
        assert [row["offset"] for row in rejected(store)] == [4, 704, 1404, 2104, 2804]

    def test_is_set_apart_once_though_the_logger_is_killed_before_it_goes_on(
        self, bus: MessageBus, store: JoinableStore, logger: EventLogger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bus.publish([decision("a"), decision("b", action_id=None), decision("c", action_id=None)])
        append, killed = DeltaTable.append, RuntimeError("killed")

        def until_killed(table: DeltaTable, rows: pa.Table, *stamp: Any) -> None:
            if "event_id" in rows.column_names:
                raise killed
            append(table, rows, *stamp)

        monkeypatch.setattr(DeltaTable, "append", until_killed)
        with pytest.raises(RuntimeError, match="killed"):
            logger.run_once()
        monkeypatch.setattr(DeltaTable, "append", append)
        assert store.last_offset("decisions", bus.producer) == 0
        assert [row["offset"] for row in rejected(store)] == [2, 3]
        assert logger.run_once().decisions == 1
        assert [row["offset"] for row in rejected(store)] == [2, 3]
        assert store.last_offset("decisions", bus.producer) == 3


class TestTheBusAndTheStoreDisagree:
    def test_an_older_copy_of_the_bus_is_noticed(self, bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
        open_backend(bandit, settings).bus().close()
        folder = settings.state_dir(bandit) / "bus"
        shutil.copytree(folder, tmp_path / "older")
        bus = open_backend(bandit, settings).bus()
        bus.publish([decision("a")])
        drain(bandit, settings)
        bus.close()
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "older", folder)
        with pytest.raises(StoreError, match="this bus ends at 0: it is an older copy"):
            drain(bandit, settings)

    def test_what_damage_took_from_the_bus_is_set_apart_and_the_rest_is_logged(
        self, settings: Settings, bandit: Bandit, bus: MessageBus, store: JoinableStore, logger: EventLogger
    ) -> None:
        bus.publish([decision("a"), reward("a")])
        logger.run_once()
        bus.publish([decision("b"), reward("b")])
        bus.publish([decision("c"), reward("c")])
        (segment,) = (settings.state_dir(bandit) / "bus").glob("segment-*.log")
        content = segment.read_bytes()
        segment.write_bytes(content.replace(b'"b"', b'"-"'))
        done = logger.run_once()
        assert (done.decisions, done.rewards, done.interactions) == (1, 1, 1)
        rejected = store.query('SELECT kind, producer, "offset", reason FROM rejected_events ORDER BY kind').to_pylist()
        assert [(row["kind"], row["producer"], row["offset"]) for row in rejected] == [
            ("decision", bus.producer, 2),
            ("reward", bus.producer, 2),
        ]
        assert all("its message is gone" in row["reason"] for row in rejected)

    def test_messages_gone_from_the_bus_are_noticed(self, bus: MessageBus, logger: EventLogger) -> None:
        bus.publish([decision("a")])
        bus.prune({"decisions": 1}, timedelta(0))
        with pytest.raises(StoreError, match=r"decisions 1\.\.1 are gone from the bus"):
            logger.run_once()

    def test_pruning_spares_what_is_recent(self, bus: MessageBus, logger: EventLogger) -> None:
        bus.publish([decision("a")])
        logger.run_once()
        assert logger.prune() == 0
        assert bus.lookup("a") is not None


class TestTheDaemon:
    def test_logs_until_it_is_told_to_stop(
        self,
        bandit: Bandit,
        settings: Settings,
        bus: MessageBus,
        store: JoinableStore,
        start: Callable[[], subprocess.Popen[str]],
    ) -> None:
        bus.publish([decision("a"), reward("a")])
        program = start()
        until(lambda: store.head() == 1)
        program.send_signal(signal.SIGTERM)
        said = program.communicate(timeout=patient(20))[1]
        assert program.returncode == 0
        assert said.count("joined") == 1
        state = json.loads((settings.state_dir(bandit) / "logger.json").read_text())
        assert (state["pid"], state["stopped"], state["error"]) == (program.pid, True, None)
        assert (state["offsets"], state["head"]) == ({"decisions": 1, "rewards": 1}, 1)
        assert state["lag"] == {"decisions": 0, "rewards": 0}
        metrics = (settings.state_dir(bandit) / "metrics.prom").read_text()
        assert 'banditloop_log_missing{bandit="movielens-v1"} ' in metrics

    def test_says_what_is_wrong_and_goes_on_when_it_is_mended(
        self,
        bandit: Bandit,
        settings: Settings,
        bus: MessageBus,
        store: JoinableStore,
        start: Callable[[], subprocess.Popen[str]],
    ) -> None:
        table = settings.state_dir(bandit) / "store" / "decisions"
        table.parent.mkdir(parents=True)
        table.write_text("in the way")
        program = start()
        bus.publish([decision("a"), reward("a")])
        state_file = settings.state_dir(bandit) / "logger.json"
        until(lambda: state_file.exists() and json.loads(state_file.read_text())["error"] is not None)
        table.unlink()
        until(lambda: store.head() == 1)
        program.terminate()
        assert "trying again in" in program.communicate(timeout=patient(20))[1]

    def test_killed_again_and_again_loses_nothing_and_doubles_nothing(
        self, bus: MessageBus, store: JoinableStore, start: Callable[[], subprocess.Popen[str]]
    ) -> None:
        rng = random.Random(3)
        acknowledged = 0
        for _ in range(3):
            program, before = start(), store.head()
            while store.head() <= before:  # it has started to store: from now on any moment is a bad one
                ids = [f"event-{acknowledged + n}" for n in range(40)]
                bus.publish([reward(i) for i in ids[:5]] + [decision(i) for i in ids])
                bus.publish([reward(i) for i in ids[5:]])
                acknowledged += len(ids)
                time.sleep(0.02)
            time.sleep(0.3 * rng.random())
            program.kill()
            program.wait()
        start()
        until(lambda: store.head() >= acknowledged, seconds=180)
        for table in ("decisions", "rewards", "interactions"):
            ids = store.query(f"SELECT event_id FROM {table}")["event_id"].to_pylist()  # noqa: S608
            assert len(ids) == len(set(ids)) == acknowledged
        assert store.interactions((0, acknowledged), ["seq"])["seq"].to_pylist() == list(range(1, acknowledged + 1))
        assert store.query("SELECT count(*) AS n FROM rewards_apart")["n"].to_pylist() == [0]
