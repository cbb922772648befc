"""Whether the loop lives: the figures, from a bus, a store and a registry of a test's own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import orjson
import pytest

from rl_core.backends import open_bus, open_registry, open_store
from rl_core.backends.base import Attempt, JoinableStore, Lineage, Message, MessageBus, PolicyRegistry
from rl_core.config import Bandit, Settings
from rl_core.online.event_logger import EventLogger
from rl_core.online.vital_signs import Delivery, local_delivery, log_vital_signs, vital_signs

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Records:
    """A registry as far as it is asked here: champion and attempts, set by the test."""

    def __init__(self, champion: str | None = None, *attempts: Attempt) -> None:
        self._champion, self._attempts = champion, list(attempts)

    def alias(self, name: str) -> str | None:
        return self._champion

    def attempts(self) -> list[Attempt]:
        return self._attempts

    def lineage(self, version: str) -> Lineage:
        return Lineage(None, ())


def attempt(version: str, window: tuple[int, int], verdict: str, hours_ago: float) -> Attempt:
    at = NOW - timedelta(hours=hours_ago)
    return Attempt(version, (window,), verdict, version, "sensor", "as the test says", at)  # type: ignore[arg-type]


def of(records: Records) -> PolicyRegistry:
    return cast(PolicyRegistry, records)


def test_age_counts_from_the_promotion_and_new_from_the_last_attempt(movielens: Bandit) -> None:
    registry = Records("v1", attempt("v1", (0, 200), "promoted", 30), attempt("v2", (200, 900), "rejected", 2))
    watermark = NOW - timedelta(seconds=90)
    signs = vital_signs(movielens, of(registry), 1000, Delivery(70, 50, rejected=3, watermark=watermark), NOW)
    assert (signs.champion, signs.champion_age_s, signs.last_attempt) == ("v1", 30 * 3600, "rejected")
    assert (signs.head, signs.new_interactions) == (1000, 100)
    assert (signs.missing, signs.rejected, signs.watermark_lag_s) == (17, 3, 90)


def test_the_watermarks_age_is_by_the_clock_of_the_stamps(movielens: Bandit) -> None:
    stamps = NOW + timedelta(hours=5)  # the wall clock was set back
    delivery = Delivery(0, 0, watermark=stamps - timedelta(seconds=3), read_at=stamps)
    assert vital_signs(movielens, of(Records()), 0, delivery, NOW).watermark_lag_s == 3


def test_a_champion_that_came_back_by_a_rollback_is_as_old_as_its_promotion(movielens: Bandit) -> None:
    registry = Records("v1", attempt("v1", (0, 200), "promoted", 30), attempt("v2", (200, 900), "promoted", 2))
    assert vital_signs(movielens, of(registry), 900, Delivery(0, 0), NOW).champion_age_s == 30 * 3600


def test_before_the_first_policy_nothing_is_invented(movielens: Bandit) -> None:
    signs = vital_signs(movielens, of(Records()), 0, Delivery(0, 0), NOW)
    assert (signs.champion, signs.champion_age_s, signs.watermark_lag_s, signs.last_attempt) == (None,) * 4


class TestOnThisMachine:
    @pytest.fixture
    def bus(self, movielens: Bandit, settings: Settings) -> Iterator[MessageBus]:
        bus = open_bus(movielens, settings)
        yield bus
        bus.close()

    def publish(self, bus: MessageBus, *event_ids: str) -> None:
        reward = {"reward": 1.0, "observed_at": NOW.isoformat(timespec="microseconds")}
        messages = [Message("rewards", key, orjson.dumps({"event_id": key, **reward})) for key in event_ids]
        bus.publish(messages)

    def test_what_the_logger_has_not_carried_yet_is_missing_and_holds_the_watermark(
        self, movielens: Bandit, settings: Settings, bus: MessageBus
    ) -> None:
        store = cast(JoinableStore, open_store(movielens, settings))
        self.publish(bus, "a", "b")
        EventLogger(movielens, bus, store).run_once()
        carried = local_delivery(movielens, settings, store)
        assert (carried.acknowledged, carried.stored) == (2, 2)
        self.publish(bus, "c")
        (waiting,) = bus.read("rewards", 2)
        behind = local_delivery(movielens, settings, store)
        assert (behind.acknowledged, behind.stored, behind.watermark) == (3, 2, waiting.received_at)

    def test_without_a_server_there_is_no_bus_and_none_is_made(
        self, movielens: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        assert local_delivery(movielens, settings, open_store(movielens, settings)) == Delivery(0, 0)
        assert not (settings.state_dir(movielens) / "bus").exists()


@pytest.mark.parametrize(("gaps", "severity"), [(0, "INFO"), (2, "ERROR")])
def test_the_line_is_json_that_log_readers_know(
    movielens: Bandit, settings: Settings, caplog: pytest.LogCaptureFixture, gaps: int, severity: str
) -> None:
    caplog.set_level(logging.INFO)
    registry, store = open_registry(movielens, settings), open_store(movielens, settings)
    log_vital_signs(movielens, registry, store, Delivery(5, 4, gaps=gaps), NOW)
    line = json.loads(caplog.messages[-1])
    assert (line["severity"], line["event"], line["bandit"]) == (severity, "banditloop_vital_signs", "movielens-v1")
    assert (line["missing"], line["gaps"]) == (1, gaps)
    assert caplog.records[-1].levelname == severity
