"""Whether the loop lives: the figures, from a bus, a store and a registry of a test's own."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
import yaml

from rl_core.backends import open_backend
from rl_core.backends.contracts.bus import Message, MessageBus
from rl_core.backends.contracts.registry import Attempt, Lineage, PolicyRegistry
from rl_core.backends.contracts.store import JoinableStore
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.bandit.sample_ratio import Split
from rl_core.config import Bandit, Settings
from rl_core.joining.event_logger import EventLogger
from rl_core.monitoring.delivery import Delivery, delivery_of, local_delivery
from rl_core.monitoring.log_figures import LogFigures
from rl_core.monitoring.metrics_file import METRICS_FILE, prometheus, write_metrics
from rl_core.monitoring.vital_signs import ALARMS, FIGURES, LAG_S, VitalSigns, log_vital_signs, vital_signs
from tests.log_rows import at, decision, decisions
from tests.machine import Machine

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
        bus = open_backend(movielens, settings).bus()
        yield bus
        bus.close()

    def publish(self, bus: MessageBus, *event_ids: str) -> None:
        reward = {"reward": 1.0, "observed_at": NOW.isoformat(timespec="microseconds")}
        messages = [Message("rewards", key, orjson.dumps({"event_id": key, **reward})) for key in event_ids]
        bus.publish(messages)

    def test_what_the_logger_has_not_carried_yet_is_missing_and_holds_the_watermark(
        self, movielens: Bandit, settings: Settings, bus: MessageBus
    ) -> None:
        store = cast(JoinableStore, open_backend(movielens, settings).store())
        self.publish(bus, "a", "b")
        EventLogger(movielens, bus, store).run_once()
        carried = local_delivery(movielens, settings, store)
        assert (carried.acknowledged, carried.stored) == (2, 2)
        assert carried.read_at is not None
        assert carried.watermark is not None
        assert carried.watermark <= carried.read_at, "the lag is never below 0"
        self.publish(bus, "c")
        (waiting,) = bus.read("rewards", 2)
        behind = local_delivery(movielens, settings, store)
        assert (behind.acknowledged, behind.stored, behind.watermark) == (3, 2, waiting.received_at)

    def test_without_a_server_there_is_no_bus_and_none_is_made(
        self, movielens: Bandit, settings: Settings, tmp_path: Path
    ) -> None:
        assert local_delivery(movielens, settings, open_backend(movielens, settings).store()) == Delivery(0, 0)
        assert not (settings.state_dir(movielens) / "bus").exists()

    def test_what_could_not_become_a_row_is_rejected_and_not_missing(
        self, movielens: Bandit, settings: Settings, bus: MessageBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = cast(JoinableStore, open_backend(movielens, settings).store())
        bus.publish([Message("rewards", "a", b"{}")])
        self.publish(bus, "b")
        EventLogger(movielens, bus, store).run_once()
        signs = vital_signs(movielens, of(Records()), 0, local_delivery(movielens, settings, store), NOW)
        assert (signs.acknowledged, signs.stored, signs.rejected, signs.missing) == (2, 1, 1, 0)
        later = datetime.now(UTC) + timedelta(hours=2)
        monkeypatch.setattr(bus, "now", lambda: later)
        signs = vital_signs(movielens, of(Records()), 0, delivery_of(movielens, bus, store), NOW)
        assert (signs.stored, signs.rejected, signs.missing) == (1, 0, 0), "never stored, and no news after an hour"

    def test_what_is_gone_from_the_bus_before_it_was_carried_rings_an_alarm(
        self, movielens: Bandit, settings: Settings, bus: MessageBus
    ) -> None:
        store = cast(JoinableStore, open_backend(movielens, settings).store())
        self.publish(bus, "a", "b")
        bus.forget(["a"])
        EventLogger(movielens, bus, store).run_once()
        (apart,) = store.query("SELECT reason FROM rejected_events")["reason"].to_pylist()
        assert "its message is gone" in apart
        signs = vital_signs(movielens, of(Records()), 0, local_delivery(movielens, settings, store), NOW)
        assert (signs.stored, signs.rejected, signs.missing) == (1, 1, 0)
        assert "rejected_events" in signs.alarms()

    def test_a_bus_without_traffic_does_not_lag_and_one_without_a_logger_does(
        self, movielens: Bandit, settings: Settings
    ) -> None:
        machine, store = Machine(), cast(JoinableStore, open_backend(movielens, settings).store())
        bus = LocalBus(settings.state_dir(movielens) / "bus", clock=machine.clock())
        try:
            self.publish(bus, "a")
            EventLogger(movielens, bus, store).run_once()
            machine.passes(86_400)
            quiet = vital_signs(movielens, of(Records()), 0, delivery_of(movielens, bus, store), NOW)
            self.publish(bus, "b")
            machine.passes(LAG_S + 1)
            stopped = vital_signs(movielens, of(Records()), 0, delivery_of(movielens, bus, store), NOW)
        finally:
            bus.close()
        assert (quiet.watermark_lag_s, quiet.severity) == (0, "INFO")
        assert (stopped.watermark_lag_s, list(stopped.alarms()), stopped.severity) == (LAG_S + 1, ["lag"], "ERROR")

    def test_the_file_for_prometheus_holds_every_figure_that_is_known_and_every_alarm(
        self, movielens: Bandit, settings: Settings, bus: MessageBus
    ) -> None:
        store = cast(JoinableStore, open_backend(movielens, settings).store())
        bus.publish([Message("rewards", "a", b"{}")])
        EventLogger(movielens, bus, store).run_once()
        began = datetime.now(UTC)
        signs = write_metrics(movielens, settings, bus, store)
        text = (settings.state_dir(movielens) / METRICS_FILE).read_text()
        samples = dict(re.findall(r"^(banditloop_\w+\{[^}]*\}) (\S+)$", text, re.MULTILINE))
        for name, help_text in FIGURES.items():
            known = getattr(signs, name) is not None
            assert (f"# HELP banditloop_log_{name} {help_text}\n# TYPE banditloop_log_{name} gauge\n" in text) is known
        assert samples['banditloop_log_rejected{bandit="movielens-v1"}'] == "1.0"
        measured_at = float(samples['banditloop_log_measured_at_seconds{bandit="movielens-v1"}'])
        assert began.timestamp() - 0.001 <= measured_at <= datetime.now(UTC).timestamp() + 0.001
        assert "# TYPE banditloop_log_measured_at_seconds gauge\n" in text
        rung = {name: samples[f'banditloop_log_alarm{{alarm="{name}",bandit="movielens-v1"}}'] for name in ALARMS}
        assert {name for name, value in rung.items() if value == "1.0"} == {"rejected_events"}


HEALTHY = {name: None if name in {"split", "split_p", "quarantined"} else 0 for name in FIGURES}
HEALTHY |= {"rewards": 1000, "rewards_of_late": 1000}


class TestAnAlarm:
    @pytest.mark.parametrize(
        ("figures", "alarms", "severity"),
        [
            ({}, [], "INFO"),
            ({"gaps": 2}, ["gap"], "ERROR"),
            ({"watermark_lag_s": None}, [], "INFO"),
            ({"watermark_lag_s": 900.0}, [], "INFO"),
            ({"watermark_lag_s": 900.001}, ["lag"], "ERROR"),
            ({"watermark_lag_s": 900.001, "gaps": 1, "rejected": 1}, ["gap", "lag", "rejected_events"], "ERROR"),
            ({"rejected": 1}, ["rejected_events"], "WARNING"),
            ({"quarantined": 0}, [], "INFO"),
            ({"quarantined": 3}, ["quarantined_rows"], "WARNING"),
            ({"duplicates": 50, "late": 50, "unknown": 50}, [], "INFO"),
            ({"duplicates": 51}, ["doubled_rewards"], "WARNING"),
            ({"late": 51}, ["late_rewards"], "WARNING"),
            ({"unknown": 51}, ["unknown_rewards"], "WARNING"),
            ({"unknown": 51, "rewards_of_late": 99}, [], "INFO"),
            ({"late": 1000, "rewards": 1000, "rewards_of_late": 25_000}, [], "INFO"),  # of a day and an hour
            ({"split": 0.9, "split_p": 0.0004}, ["sample_ratio_mismatch"], "WARNING"),
            ({"split": 0.9, "split_p": 0.0005}, [], "INFO"),
            ({"gaps": 1, "rejected": 1}, ["gap", "rejected_events"], "ERROR"),
            ({"open": 9, "open_s": 9000.0}, [], "INFO"),
            ({"open": 9, "open_of_jobs": 1}, ["unended_job"], "WARNING"),
        ],
    )
    def test_says_in_the_line_what_to_look_at(self, figures: dict[str, Any], alarms: list[str], severity: str) -> None:
        signs = VitalSigns(**{"bandit": "movielens-v1", **HEALTHY, **figures})
        line = json.loads(signs.line(signs.severity))
        assert (list(line.get("alarms", {})), line["severity"]) == (alarms, severity)
        assert set(alarms) <= set(ALARMS)
        assert all(len(said) > 20 for said in line.get("alarms", {}).values())

    def test_of_the_lag_rings_where_google_cloud_alerts(self, repo: Path) -> None:
        policies = list(yaml.safe_load_all((repo / "docs" / "monitoring" / "alerts.yaml").read_text()))
        (alert,) = (policy for policy in policies if policy["displayName"] == "banditloop: the log lags")
        assert alert["conditions"][0]["conditionThreshold"]["thresholdValue"] == LAG_S
        page = (repo / "docs" / "monitoring" / "README.md").read_text()
        assert f"`watermark_lag_s` > {LAG_S:g};" in page

    def test_of_the_split_is_not_rounded_away(self, movielens: Bandit) -> None:
        for explored, rung in ((870, True), (900, False)):
            seen = LogFigures(split=Split(explored, 1000.0, 950.0))
            signs = vital_signs(movielens, of(Records()), 0, Delivery(0, 0, log=seen), NOW)
            assert (list(signs.alarms()), "e-" in signs.line("INFO")) == (["sample_ratio_mismatch"] * rung, False)


def test_what_waits_is_counted_by_producer_and_rings_for_a_job_that_was_cut_off(
    movielens: Bandit, settings: Settings
) -> None:
    store = cast(JoinableStore, open_backend(movielens, settings).store())
    store.append("decisions", decisions(*(decision(f"i{n}", n, n, "import-1") for n in range(1, 4))))
    store.append("decisions", decisions(decision("b", 2)))
    joiner = store.joiner(movielens)
    joiner.run(None)
    delivery = local_delivery(movielens, settings, store)
    wait = movielens.join.reward_wait_s
    for age, rung in ((wait + LAG_S, []), (wait + LAG_S + 1, ["unended_job"])):
        signs = vital_signs(movielens, of(Records()), 0, delivery, at(1 + age))
        assert (signs.open, signs.open_s, list(signs.alarms())) == (4, age, rung)
        assert json.loads(signs.line("INFO"))["open_by_producer"] == {
            "bus-1": {"count": 1, "age_s": age - 1},
            "import-1": {"count": 3, "age_s": age},
        }
        text = prometheus(signs, NOW).decode()
        assert 'banditloop_log_open_decisions{bandit="movielens-v1",producer="import-1"} 3.0' in text
    store.complete("import-1")
    joiner.run(None)
    (waiting,) = local_delivery(movielens, settings, store).open_decisions
    assert (waiting.producer, waiting.count) == ("bus-1", 1)


def test_what_the_last_training_set_apart_is_told(movielens: Bandit) -> None:
    last = dataclasses.replace(attempt("v1", (0, 200), "promoted", 30), metrics={"quarantined": 7.0})
    assert vital_signs(movielens, of(Records("v1", last)), 200, Delivery(0, 0), NOW).quarantined == 7


@pytest.mark.parametrize(("gaps", "severity"), [(0, "INFO"), (2, "ERROR")])
def test_the_line_is_json_that_log_readers_know(
    movielens: Bandit, settings: Settings, caplog: pytest.LogCaptureFixture, gaps: int, severity: str
) -> None:
    caplog.set_level(logging.INFO)
    registry, store = open_backend(movielens, settings).registry(), open_backend(movielens, settings).store()
    log_vital_signs(movielens, registry, store, Delivery(5, 4, gaps=gaps), NOW)
    line = json.loads(caplog.messages[-1])
    assert (line["severity"], line["event"], line["bandit"]) == (severity, "banditloop_vital_signs", "movielens-v1")
    assert (line["missing"], line["gaps"]) == (1, gaps)
    assert caplog.records[-1].levelname == severity
