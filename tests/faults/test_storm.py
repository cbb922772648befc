"""The storm, played for two half minutes: what was acknowledged is in the store once, whatever is killed or damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reliability.storm.audit import audit, named_in
from reliability.storm.disk import damage
from reliability.storm.plan import KINDS, draw
from reliability.storm.report import PROMISES
from reliability.storm.traffic import Record, Sent
from reliability.storm.windows import gaps, overlaps
from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.bus.bus import LocalBus

NOTHING: dict[str, set[int]] = {"decisions": set(), "rewards": set()}
FIELDS = {
    "acknowledged",
    "in_store",
    "lost",
    "duplicates",
    "rewards_sent",
    "rewards_joined",
    "kills",
    "windows_overlapping",
    "windows_with_gaps",
    "pipeline_runs_per_task_max",
    "recovery_s_max",
    "seed",
}


@pytest.mark.long
@pytest.mark.tf
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_short_storm_keeps_every_promise(repo: Path, tmp_path: Path, seed: int) -> None:
    report = play(repo, tmp_path, "--seed", str(seed), "--kills", "21", "--decisions", "2000", "--seconds", "30")
    assert report.keys() >= FIELDS
    assert report["seed"] == seed
    assert report["acknowledged"] >= 2000
    assert report["in_store"] >= report["acknowledged"] - report["damaged_decisions"]
    assert report["kills"] >= 20
    assert set(report["kills_by_victim"]) == {"server", "logger", "trainer"}
    assert {f"disk: {kind}" for kind in KINDS["disk"]} <= report["faults"].keys()
    assert report["rewards_sent"] > 300
    assert {name: report[name] for name in PROMISES if report[name] > PROMISES[name]} == {}, report["examples"]


def play(repo: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    """The report of a storm without Airflow, which kept its promises."""
    out = folder / "report.json"
    command = [sys.executable, "-m", "reliability.storm", "--without-airflow", "--pause", "0.08", "--out", str(out)]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"PYTHONPATH": f"{repo}:{repo / 'plugins'}"}
    done = subprocess.run(
        [*command, *arguments], cwd=repo, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(out.read_text())
    return report


class TestThePlan:
    def test_is_the_seeds(self) -> None:
        assert draw(3, 200, 720) == draw(3, 200, 720)
        assert draw(3, 200, 720).digest != draw(4, 200, 720).digest

    @pytest.mark.parametrize("airflow", [True, False])
    def test_has_as_many_kills_as_asked_for_and_every_victim(self, airflow: bool) -> None:
        plan = draw(1, 200, 720, airflow=airflow)
        assert plan.kills == 200
        assert set(plan.lanes) == {"server", "logger", "trainer", "disk", *(["airflow"] if airflow else [])}

    @pytest.mark.parametrize("seed", range(1, 7))
    def test_damages_the_bus_in_every_way(self, seed: int) -> None:
        assert {fault.kind for fault in draw(seed, 21, 720).lanes["disk"]} == set(KINDS["disk"])

    def test_without_corruption_only_fills_the_disk(self) -> None:
        assert {fault.kind for fault in draw(1, 200, 720, corruption=False).lanes["disk"]} == {"full"}


class TestDamageInUse:
    @pytest.mark.parametrize("kind", [kind for kind in KINDS["disk"] if kind != "full"])
    def test_is_named_by_who_reads_and_takes_nothing_else(
        self, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = LocalBus(tmp_path)
        for n in range(0, 3000, 10):
            bus.publish([Message("decisions", f"d{m}", b"decision" * 30) for m in range(n, n + 10)])
        given = bus.read("decisions", 0)
        damage(tmp_path, kind, "1")
        bus.publish([Message("decisions", "another", b"")])
        (log := tmp_path / "log").write_text(caplog.text)
        reader = LocalBus(tmp_path)
        found = reader.read("decisions", 0)
        log.write_text(caplog.text)
        named = named_in([log])["decisions"]
        assert {d.offset for d in found if not d.key} == named
        assert [d for d in found[:3000] if d.key] == [d for d in given if d.offset not in named]
        for one in (bus, reader):
            one.close()


class TestTheWindows:
    def test_that_follow_each_other_neither_overlap_nor_leave_a_gap(self) -> None:
        assert (overlaps([(200, 300), (0, 200)]), gaps([(200, 300), (0, 200)], 300)) == (0, 0)

    def test_that_overlap_or_leave_gaps_are_counted(self) -> None:
        assert overlaps([(0, 200), (150, 300)]) == 1
        assert gaps([(0, 100), (150, 200)], 300) == 2


class TestTheAudit:
    """It finds what it is there for: a checker that never objects proves nothing."""

    def test_of_a_log_that_is_as_it_was_told_objects_to_nothing(self) -> None:
        found = audit(records(), strangers(), tables(), wait_s=4, prefix="s1-", named=NOTHING)
        assert (found.in_store, found.rewards_sent, found.rewards_joined) == (1, 1, 1)
        assert found.examples == {}

    @pytest.mark.parametrize(
        ("table", "change", "figure"),
        [
            ("decisions", {"action_id": "movie-3"}, "lost"),
            ("decisions", {"propensity": 0.5}, "lost"),
            ("decisions", {"event_id": "s1-b"}, "lost"),
            ("interactions", {"event_id": "s1-b"}, "open"),
            ("interactions", {"seq": 2}, "seq_gaps"),
            ("interactions", {"reward": 1.0}, "rewards_misplaced"),
            ("interactions", {"closed_by": "timeout"}, "rewards_used_twice"),
            ("rewards", {"offset": 2}, "seq_gaps"),
        ],
    )
    def test_finds_one_cell_that_is_wrong(self, table: str, change: dict[str, Any], figure: str) -> None:
        wrong = tables()
        wrong[table][0] |= change
        assert getattr(audit(records(), strangers(), wrong, wait_s=4, prefix="s1-", named=NOTHING), figure) == 1

    @pytest.mark.parametrize(("table", "figure"), [("decisions", "duplicates"), ("interactions", "duplicates")])
    def test_finds_a_row_that_is_there_twice(self, table: str, figure: str) -> None:
        wrong = tables()
        wrong[table].append(dict(wrong[table][0]))
        assert getattr(audit(records(), strangers(), wrong, wait_s=4, prefix="s1-", named=NOTHING), figure) == 1

    @pytest.mark.parametrize("gone", range(4), ids=["on time", "second", "late", "for nobody"])
    def test_finds_an_acknowledged_reward_that_is_not_stored(self, gone: int) -> None:
        told, nobody, wrong = four_rewards()
        assert audit(told, nobody, wrong, wait_s=4, prefix="s1-", named=NOTHING).rewards_lost == 0
        del wrong["rewards"][gone]
        assert audit(told, nobody, wrong, wait_s=4, prefix="s1-", named=NOTHING).rewards_lost == 1

    def test_finds_a_reward_that_is_stored_with_another_value(self) -> None:
        wrong = tables()
        wrong["rewards"][0]["reward"] = 2.0
        assert audit(records(), strangers(), wrong, wait_s=4, prefix="s1-", named=NOTHING).rewards_lost == 1

    def test_wants_nothing_that_the_bus_named_and_everything_else(self) -> None:
        named, wrong = {"decisions": {2}, "rewards": {2, 3}}, tables()
        told = records() | {"s1-b": Record(100.0, ("movie-1", 0.9, "v1"), 100.1, rewards=[Sent(2.5, 100.5, 100.6)])}
        kinds = {"decision": named["decisions"], "reward": named["rewards"]}
        gone = [(kind, offset) for kind, offsets in kinds.items() for offset in offsets]
        wrong["rejected_events"] = [{"kind": k, "offset": n, "producer": "bus-1", "reason": "gone"} for k, n in gone]
        found = audit(told, strangers(), wrong, wait_s=4, prefix="s1-", named=named)
        assert (found.lost, found.rewards_lost, found.seq_gaps) == (0, 0, 0)
        assert (found.damaged_decisions, found.damaged_rewards, found.unjoined_by_damage) == (1, 2, 1)
        told["s1-c"] = Record(100.0, ("movie-1", 0.9, "v1"), 100.1)
        assert audit(told, strangers(), wrong, wait_s=4, prefix="s1-", named=named).lost == 1
        assert audit(told, strangers(), wrong, wait_s=4, prefix="s1-", named=NOTHING).seq_gaps == 3

    def test_counts_rewards_that_are_equal(self) -> None:
        told = records()
        told["s1-a"].rewards.append(Sent(2.5, 101.0, 101.1))
        assert audit(told, strangers(), tables(), wait_s=4, prefix="s1-", named=NOTHING).rewards_lost == 1

    def test_wants_no_reward_that_was_not_acknowledged(self) -> None:
        told, nobody, wrong = four_rewards()
        for reward in (*told["s1-a"].rewards, *nobody.values()):
            reward.acknowledged_at = None
        assert audit(told, nobody, wrong | {"rewards": []}, wait_s=4, prefix="s1-", named=NOTHING).rewards_lost == 0

    def test_finds_a_reward_that_came_in_time_and_was_set_apart(self) -> None:
        wrong = tables()
        wrong["rewards_apart"].append({"event_id": "s1-a", "producer": "bus-1", "offset": 1, "reason": "late"})
        wrong["interactions"][0] |= {"closed_by": "timeout", "reward": 0.0}
        found = audit(records(), strangers(), wrong, wait_s=4, prefix="s1-", named=NOTHING)
        assert (found.rewards_misplaced, found.rewards_sent - found.rewards_joined) == (1, 1)


def four_rewards() -> tuple[dict[str, Record], dict[str, Sent], dict[str, list[dict[str, Any]]]]:
    """The decision was rewarded in time, once more, and too late; and there is a reward for no decision."""
    told, nobody, stored = records(), {"s1-nobody": Sent(1.0, 102.0, 102.1)}, tables()
    told["s1-a"].rewards += [Sent(1.5, 101.0, 101.1), Sent(0.5, 110.0, 110.1)]
    first = stored["rewards"][0]
    for offset, (event_id, value, late) in enumerate([("s1-a", 1.5, 1), ("s1-a", 0.5, 10), ("s1-nobody", 1.0, 2)], 2):
        given = {"event_id": event_id, "reward": value, "offset": offset}
        stored["rewards"].append({**first, **given, "received_at": first["received_at"] + timedelta(seconds=late)})
    reasons = {2: "duplicate", 3: "late", 4: "unknown"}
    apart = [{"producer": "bus-1", "offset": offset, "reason": reason} for offset, reason in reasons.items()]
    stored["rewards_apart"] = [{"event_id": "s1-nobody" if one["offset"] == 4 else "s1-a", **one} for one in apart]
    return told, nobody, stored


def strangers() -> dict[str, Sent]:
    """Nobody was rewarded for a decision that was never asked for."""
    return {}


def records() -> dict[str, Record]:
    """One decision, answered at once and rewarded in its first second."""
    return {"s1-a": Record(100.0, ("movie-2", 0.9, "v1"), 100.1, rewards=[Sent(2.5, 100.5, 100.6)])}


def tables() -> dict[str, list[dict[str, Any]]]:
    from datetime import UTC, datetime

    def at(seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds, UTC)

    told = {"event_id": "s1-a", "action_id": "movie-2", "propensity": 0.9, "policy_version": "v1"}
    return {
        "decisions": [{**told, "decided_at": at(100.05), "producer": "bus-1", "offset": 1}],
        "rewards": [{"event_id": "s1-a", "reward": 2.5, "received_at": at(100.55), "producer": "bus-1", "offset": 1}],
        "interactions": [{**told, "seq": 1, "reward": 2.5, "closed_by": "reward"}],
        "rewards_apart": [],
        "rejected_events": [],
    }
