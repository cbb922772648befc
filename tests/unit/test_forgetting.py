"""`forget` and retention on the local backend: nothing of one person is left, everything of the others is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa
import pytest

from rl_core.__main__ import run
from rl_core.backends import open_backend
from rl_core.backends.contracts.bus import Message, MessageBus
from rl_core.backends.contracts.store import JoinableStore
from rl_core.backends.local.joining.joiner import StoreJoiner
from rl_core.backends.local.store.delta.table import DeltaTable
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join, Retention, Settings
from rl_core.dataset.quarantine import Quarantine
from rl_core.errors import ConfigError, StoreError
from rl_core.joining.event_logger import EventLogger
from tests.log_rows import BUS, WAIT_S, activation, at, decision, decisions, log, reward, rewards

REPOSITORY = Path(__file__).parents[2]
SUBJECT = "marker-ada-lovelace"


def made(event_id: str, subject: str | None) -> Message:
    said: dict[str, Any] = {
        "event_id": event_id,
        "decided_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        "policy_version": "v1",
        "observation": [0.5, -1.25],
        "observation_version": "o1",
        "action_id": "movie-3",
        "action_set_version": "a1",
        "eligible_action_ids": ["movie-1", "movie-2", "movie-3"],
        "propensity": 0.5,
        "epsilon": 0.05,
        "source": "client",
        "served": True,
        "schema_version": 1,
        "subject": subject,
    }
    return Message("decisions", event_id, orjson.dumps(said))


def earned(event_id: str) -> Message:
    said = {"event_id": event_id, "reward": 4.5, "observed_at": datetime.now(UTC).isoformat(timespec="microseconds")}
    return Message("rewards", event_id, orjson.dumps(said))


def activated(event_id: str) -> Message:
    said = {"event_id": event_id, "activation": True, "observed_at": datetime.now(UTC).isoformat()}
    return Message("rewards", event_id, orjson.dumps(said))


@pytest.fixture
def bandit(movielens: Bandit, monkeypatch: pytest.MonkeyPatch) -> Bandit:
    bandit = movielens.model_copy(update={"join": Join(reward_wait_s=60, close_early=True)})
    monkeypatch.setenv("BANDIT_DEFINITION", bandit.model_dump_json())
    return bandit


@pytest.fixture
def bus(bandit: Bandit, settings: Settings) -> Iterator[MessageBus]:
    bus = open_backend(bandit, settings).bus()
    yield bus
    bus.close()


@pytest.fixture
def store(bandit: Bandit, settings: Settings) -> JoinableStore:
    return cast(JoinableStore, open_backend(bandit, settings).store())


@pytest.fixture
def logged(bandit: Bandit, bus: MessageBus, store: JoinableStore) -> EventLogger:
    """Eight closed events and two open ones; the odd ones are the subject's. A logger that holds the open in memory."""
    logger = EventLogger(bandit, bus, store)
    for n in range(8):
        event = f"{'marker-' if n % 2 else ''}event-{n}"
        bus.publish([made(event, SUBJECT if n % 2 else None), earned(event), earned(event)])
        logger.run_once()
    bus.publish([made("event-open", None), made("marker-event-open", SUBJECT), activated("marker-event-open")])
    bus.publish(
        [Message("decisions", "marker-misfit", b'{"event_id": "marker-misfit", "subject": "%s"}' % SUBJECT.encode())]
    )
    logger.run_once()
    return logger


def holding(folder: Path, word: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and word in path.read_bytes()]


def test_nothing_of_the_subject_is_left_anywhere(
    bandit: Bandit, settings: Settings, bus: MessageBus, store: JoinableStore, logged: EventLogger
) -> None:
    assert holding(settings.state_dir(bandit), b"marker")
    assert run(["forget", "--subject", SUBJECT]) == 0
    assert holding(settings.state_dir(bandit), b"marker") == []
    rows = store.interactions((0, 8))
    assert rows["event_id"].to_pylist() == [f"forgotten-{n + 1}" if n % 2 else f"event-{n}" for n in range(8)]
    assert rows["served"].to_pylist() == [n % 2 == 0 for n in range(8)]
    for table in ("rejected_events", "activations"):
        assert store.query(f"SELECT count(*) AS n FROM {table}")["n"].to_pylist() == [0]  # noqa: S608


def test_what_a_running_logger_had_open_does_not_come_back(
    bandit: Bandit, settings: Settings, bus: MessageBus, store: JoinableStore, logged: EventLogger
) -> None:
    run(["forget", "--subject", SUBJECT])
    bus.publish([earned("event-open"), earned("marker-event-open")])
    assert logged.run_once().interactions == 1
    assert store.interactions((8, 9))["event_id"].to_pylist() == ["event-open"]


def test_one_event_that_was_not_carried_yet(
    bandit: Bandit, bus: MessageBus, store: JoinableStore, logged: EventLogger
) -> None:
    bus.publish([made("e-1", None), made("e-2", None), earned("e-2")])
    assert bus.forget(["e-1"]) == 1  # as if it came in while `forget` was at work
    logged.run_once()
    bus.publish([made("e-3", None)])
    assert logged.run_once().decisions == 1
    assert store.last_offset("decisions", bus.producer) == bus.head("decisions")


def test_a_dry_run_changes_nothing(
    bandit: Bandit, store: JoinableStore, logged: EventLogger, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.interactions((0, 8))
    run(["forget", "--subject", SUBJECT, "--dry-run"])
    assert (
        "would be forgotten: 6 events; 1 activations, 5 decisions, 4 interactions, 1 rejected_events, 8 rewards, "
        "4 rewards_apart" in (capsys.readouterr().out)
    )
    assert store.interactions((0, 8)).equals(before)


def test_what_stays_is_said(bandit: Bandit, settings: Settings, logged: EventLogger, capsys: Any) -> None:
    aside = settings.state_dir(bandit) / "bus" / "damaged-1"
    aside.write_bytes(b"...marker-event-1...")
    run(["forget", "--event-id", "marker-event-1", "--event-id", "unheard"])
    said = capsys.readouterr().out
    assert f"look at: {aside} still names what was forgotten" in said
    assert "which no training reads any more; --datasets removes them" in said


@pytest.mark.parametrize("where", ["runs/job-1", "../cache/movielens-retrain-v1/1"])
def test_a_quarantine_that_names_it_is_said_though_it_is_compressed(
    bandit: Bandit, settings: Settings, logged: EventLogger, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    folder = settings.state_dir(bandit) / where
    ids = [f"marker-event-{n}" for n in range(400)]
    with Quarantine(folder) as quarantine:
        quarantine.add(pa.table({"event_id": ids, "reason": ["reward"] * len(ids)}))
    (cut := folder / ".quarantine.parquet.partial").write_bytes(quarantine.path.read_bytes()[:-100])
    run(["forget", "--event-id", "marker-event-123"])
    said = capsys.readouterr().out
    for path in (quarantine.path, cut):
        assert f"{path.name} still names what was forgotten" in said
    run(["forget", "--event-id", "marker-event-401"])
    assert "/quarantine.parquet still names" not in capsys.readouterr().out


def test_nobody_is_refused(bandit: Bandit) -> None:
    for arguments in ([], ["--subject", ""]):
        with pytest.raises(ConfigError, match="whose data"):
            run(["forget", *arguments])


class TestKilledAnywhere:
    def test_it_goes_on_when_run_again(
        self, bandit: Bandit, settings: Settings, store: JoinableStore, logged: EventLogger
    ) -> None:
        for wait in (0.9, 1.1, 1.3):
            command = [sys.executable, "-m", "rl_core", "forget", "--subject", SUBJECT]
            program = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
            time.sleep(wait)  # anywhere: what it has done by then differs from run to run
            program.send_signal(signal.SIGKILL)
            program.wait()
        run(["forget", "--subject", SUBJECT])
        assert holding(settings.state_dir(bandit), b"marker") == []
        assert store.interactions((0, 8))["closed_by"].to_pylist() == ["reward", "forgotten"] * 4

    @pytest.mark.parametrize("reached", ["rewards", "rewards_apart", "rejected_events", "decisions", "interactions"])
    def test_a_joiner_that_runs_before_it_is_run_again_closes_nothing_twice(
        self, tmp_path: Path, movielens: Bandit, monkeypatch: pytest.MonkeyPatch, reached: str
    ) -> None:
        bandit = movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S, close_early=True)})
        store = DeltaEventStore(tmp_path / "store")
        store.append("decisions", decisions(*(decision(f"e{n}", n, n) for n in range(1, 4))))
        store.append("rewards", rewards(reward("e2", 3.5, 1), reward("e3", 3.6, 2)))
        assert StoreJoiner(bandit, store).run(at(4)).interactions == 2  # e1 stays open

        def killed(table: DeltaTable) -> None:
            if table._path.name == reached:
                raise StoreError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(DeltaTable, "purge", killed)
            with pytest.raises(StoreError, match="killed"):
                store.forget([], ["e2"])
        assert StoreJoiner(bandit, DeltaEventStore(tmp_path / "store")).run(at(100)).interactions == 1
        store.forget([], ["e2"])
        rows = store.interactions((0, store.head()))
        assert rows["event_id"].to_pylist() == ["forgotten-1", "e3", "e1"]


class TestRetention:
    DAYS = 8.0

    @pytest.fixture
    def aged(self, tmp_path: Path, movielens: Bandit) -> DeltaEventStore:
        """Events 1..5 at seconds 1..5; 1 to 4 are closed, 2 is rewarded twice."""
        bandit = movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})
        store = DeltaEventStore(tmp_path / "store")
        store.append("decisions", decisions(*(decision(f"e{n}", n, n) for n in range(1, 6))))
        store.append("rewards", rewards(reward("e2", 2.5, 1), reward("e2", 2.6, 2), reward("e5", 5.5, 3)))
        StoreJoiner(bandit, store).run(at(4.5 + WAIT_S))
        return store

    def left(self, store: DeltaEventStore, table: str) -> list[int]:
        offsets: list[int] = store.query(f'SELECT "offset" FROM {table} ORDER BY 1')["offset"].to_pylist()  # noqa: S608
        return offsets

    def test_deletes_what_is_older_and_closed(self, aged: DeltaEventStore) -> None:
        gone = {"decisions": 3, "rewards": 2, "activations": 0, "rewards_apart": 1, "rejected_events": 0}
        assert dict(aged.retire(at(4))) == gone
        assert self.left(aged, "decisions") == [4, 5]
        assert (self.left(aged, "rewards"), self.left(aged, "rewards_apart")) == ([3], [])
        assert aged.head() == 4
        assert aged.last_offset("decisions", BUS) == 5

    def test_deletes_activations_of_what_is_closed(self, tmp_path: Path, movielens: Bandit) -> None:
        bandit = movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})
        store = DeltaEventStore(tmp_path / "store")
        store.append("decisions", decisions(decision("a", 1, 1, deferred=True), decision("b", 3, 2, deferred=True)))
        log(store, activation("a", 2, 1), activation("b", 3.5, 2))
        StoreJoiner(bandit, store).run(at(2 + WAIT_S))
        assert store.retire(at(1000))["activations"] == 1
        assert self.left(store, "activations") == [2]

    def test_keeps_what_is_open(self, aged: DeltaEventStore) -> None:
        aged.retire(at(1000))
        assert (self.left(aged, "decisions"), self.left(aged, "rewards")) == ([5], [3])
        pending = aged.pending()
        assert (pending.decisions["offset"].to_pylist(), pending.rewards["offset"].to_pylist()) == ([5], [3])

    def test_what_is_appended_afterwards_goes_on(self, aged: DeltaEventStore, movielens: Bandit) -> None:
        aged.retire(at(1000))
        assert aged.append("decisions", decisions(decision("e6", 6, 6))) == 1
        bandit = movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})
        assert StoreJoiner(bandit, aged).run(at(100)).interactions == 2

    def test_does_nothing_while_it_is_not_known_what_is_dealt_with(self, aged: DeltaEventStore, tmp_path: Path) -> None:
        (tmp_path / "store" / "checkpoint.json").unlink()
        assert aged.retire(at(1000)) == {}

    def test_is_the_loggers_to_do(self, tmp_path: Path, bandit: Bandit, bus: MessageBus, aged: DeltaEventStore) -> None:
        keeping = bandit.model_copy(update={"retention": Retention(raw_log_days=self.DAYS)})
        assert EventLogger(keeping, bus, aged).retire()["decisions"] == 4
        assert EventLogger(bandit, bus, aged).retire() == {}

    @pytest.mark.parametrize("days", [0.5, 7.0])
    def test_must_leave_time_for_rewards(self, movielens: Bandit, days: float) -> None:
        changed = orjson.loads(movielens.model_dump_json()) | {"retention": {"raw_log_days": days}}
        with pytest.raises(ConfigError, match=r"retention\.raw_log_days=.* must exceed"):
            Bandit.from_json(orjson.dumps(changed).decode())


def test_a_forgotten_row_has_a_value_where_the_schema_wants_one(tmp_path: Path, movielens: Bandit) -> None:
    store = DeltaEventStore(tmp_path / "store")
    store.append("decisions", decisions(*(decision(f"e{n}", n, n) for n in range(1, 4))))
    StoreJoiner(movielens, store).run(at(3) + timedelta(days=1))
    store.forget([], ["e2"])
    rows = store.interactions((0, 3))
    assert isinstance(rows, pa.Table)
    assert [
        column.null_count for column, field in zip(rows.columns, rows.schema, strict=True) if not field.nullable
    ] == [0] * sum(not field.nullable for field in rows.schema)
