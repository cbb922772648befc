"""The storm, played for half a minute: what was acknowledged is in the store once, whatever is killed and damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reliability.storm.audit import audit
from reliability.storm.plan import draw
from reliability.storm.report import PROMISES
from reliability.storm.traffic import Record, Sent
from reliability.storm.windows import gaps, overlaps

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


@pytest.mark.slow
@pytest.mark.tf
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2], ids=["the bus's file is damaged", "the bus's journal is damaged"])
def test_a_short_storm_keeps_every_promise(repo: Path, tmp_path: Path, seed: int) -> None:
    report = play(repo, tmp_path, "--seed", str(seed), "--kills", "21", "--decisions", "1000", "--seconds", "25")
    assert report.keys() >= FIELDS
    assert report["seed"] == seed
    assert report["acknowledged"] >= 1000
    assert report["in_store"] >= report["acknowledged"]
    assert report["kills"] >= 20
    assert set(report["kills_by_victim"]) == {"server", "logger", "trainer"}
    assert "disk: full" in report["faults"]
    assert sum(kind.startswith("disk:") for kind in report["faults"]) > 1, "the bus was damaged, too"
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


class TestTheWindows:
    def test_that_follow_each_other_neither_overlap_nor_leave_a_gap(self) -> None:
        assert (overlaps([(200, 300), (0, 200)]), gaps([(200, 300), (0, 200)], 300)) == (0, 0)

    def test_that_overlap_or_leave_gaps_are_counted(self) -> None:
        assert overlaps([(0, 200), (150, 300)]) == 1
        assert gaps([(0, 100), (150, 200)], 300) == 2


class TestTheAudit:
    """It finds what it is there for: a checker that never objects proves nothing."""

    def test_of_a_log_that_is_as_it_was_told_objects_to_nothing(self) -> None:
        found = audit(records(), tables(), wait_s=4, prefix="s1-")
        assert (found.in_store, found.rewards_sent, found.rewards_joined) == (1, 1, 1)
        assert found.examples == {}

    @pytest.mark.parametrize(
        ("table", "change", "figure"),
        [
            ("decisions", {"action": 3}, "lost"),
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
        assert getattr(audit(records(), wrong, wait_s=4, prefix="s1-"), figure) == 1

    @pytest.mark.parametrize(("table", "figure"), [("decisions", "duplicates"), ("interactions", "duplicates")])
    def test_finds_a_row_that_is_there_twice(self, table: str, figure: str) -> None:
        wrong = tables()
        wrong[table].append(dict(wrong[table][0]))
        assert getattr(audit(records(), wrong, wait_s=4, prefix="s1-"), figure) == 1

    def test_finds_a_reward_that_came_in_time_and_was_set_apart(self) -> None:
        wrong = tables()
        wrong["rewards_apart"].append({"event_id": "s1-a", "producer": "bus-1", "offset": 1, "reason": "late"})
        wrong["interactions"][0] |= {"closed_by": "timeout", "reward": 0.0}
        found = audit(records(), wrong, wait_s=4, prefix="s1-")
        assert (found.rewards_misplaced, found.rewards_sent - found.rewards_joined) == (1, 1)


def records() -> dict[str, Record]:
    """One decision, answered at once and rewarded in its first second."""
    return {"s1-a": Record(100.0, (2, 0.9, "v1"), 100.1, rewards=[Sent(2.5, 100.5, 100.6)])}


def tables() -> dict[str, list[dict[str, Any]]]:
    from datetime import UTC, datetime

    def at(seconds: float) -> datetime:
        return datetime.fromtimestamp(seconds, UTC)

    told = {"event_id": "s1-a", "action": 2, "propensity": 0.9, "policy_version": "v1"}
    return {
        "decisions": [{**told, "decided_at": at(100.05), "producer": "bus-1", "offset": 1}],
        "rewards": [{"event_id": "s1-a", "reward": 2.5, "received_at": at(100.55), "producer": "bus-1", "offset": 1}],
        "interactions": [{**told, "seq": 1, "reward": 2.5, "closed_by": "reward"}],
        "rewards_apart": [],
    }
