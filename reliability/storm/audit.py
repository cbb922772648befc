"""What clients were told, against what the event store holds. Reads the tables as they are and trusts no code of ours.

The joiner's rules are said again here, in a few lines of their own. What damage to the bus took is no breach as long as
the bus named it: so many decisions and rewards may be missing, and a decision that was named may have a second answer.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reliability.storm.traffic import Answer, Record, Sent

EXAMPLES = 5
_TOPICS = ("decisions", "rewards")
TOLERANCE = 1e-9
_NAMED = re.compile(r" \d+ (decisions|rewards) of bus-\S+ are lost, offsets ([\d., ]+), unless")


class _Reward(NamedTuple):
    producer: str
    offset: int
    value: float
    received_at: float


@dataclass
class Finding:
    """The figures of the report that the store answers for, and examples of what breaks a promise."""

    in_store: int = 0
    lost: int = 0
    duplicates: int = 0
    altered: int = 0
    answers_changed: int = 0
    unanswered_in_store: int = 0
    rewards_sent: int = 0
    rewards_joined: int = 0
    rewards_lost: int = 0
    rewards_used_twice: int = 0
    rewards_misplaced: int = 0
    seq_gaps: int = 0
    open: int = 0
    damaged_decisions: int = 0
    damaged_rewards: int = 0
    answered_anew: int = 0
    unjoined_by_damage: int = 0
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, figure: str, example: str) -> None:
        setattr(self, figure, getattr(self, figure) + 1)
        if len(self.examples[figure]) < EXAMPLES:
            self.examples[figure].append(example)


def named_in(logs: Iterable[Path]) -> dict[str, set[int]]:
    """The offsets of each topic that the bus's processes said are lost to damage, whether or not they were stored."""
    named: dict[str, set[int]] = {"decisions": set(), "rewards": set()}
    for log in logs:
        for topic, spans in _NAMED.findall(log.read_text(errors="replace")):
            for low, high in re.findall(r"(\d+)\.\.(\d+)", spans):
                named[topic] |= set(range(int(low), int(high) + 1))
    return named


def read(store: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row of the tables, without the observations."""
    from deltalake import DeltaTable

    columns = {
        "decisions": ["event_id", "action_id", "propensity", "policy_version", "decided_at", "producer", "offset"],
        "rewards": ["event_id", "reward", "received_at", "producer", "offset"],
        "interactions": ["seq", "event_id", "action_id", "propensity", "policy_version", "reward", "closed_by"],
        "rewards_apart": ["event_id", "producer", "offset", "reason"],
        "rejected_events": ["kind", "producer", "offset", "reason"],
    }
    tables = {}
    for name, wanted in columns.items():
        there = DeltaTable.is_deltatable(str(store / name))
        tables[name] = DeltaTable(store / name).to_pyarrow_table(columns=wanted).to_pylist() if there else []
    return tables


def audit(
    records: Mapping[str, Record],
    strangers: Mapping[str, Sent],
    tables: Mapping[str, list[dict[str, Any]]],
    wait_s: float,
    prefix: str,
    named: Mapping[str, set[int]],
) -> Finding:
    """What of the clients' `records`, and of their rewards for decisions that nobody asked for, the tables don't keep.

    `prefix` begins the event ids of the storm; what a training's simulation logged is left out. `named` are the offsets
    that the bus said are lost.
    """
    found = Finding()
    stored = {name: {row["offset"] for row in tables[name] if row["producer"].startswith("bus-")} for name in named}
    found.damaged_decisions, found.damaged_rewards = (len(named[name] - stored[name]) for name in _TOPICS)
    decisions = _by_event(tables["decisions"], prefix)
    interactions = _by_event(tables["interactions"], prefix)
    _acknowledged_are_stored(found, records, decisions, named["decisions"])
    sent = {event_id: record.rewards for event_id, record in records.items()}
    sent |= {event_id: [reward] for event_id, reward in strangers.items()}
    _acknowledged_rewards_are_stored(found, sent, _by_event(tables["rewards"], prefix))
    _each_once(found, decisions, interactions, named["decisions"])
    _numbering(found, tables, named)
    winners = _rewards(found, tables, decisions, interactions, wait_s, prefix)
    _promised_rewards(found, records, interactions, winners, wait_s)
    # What was named is not lost in silence; how many clients had been told of it can't be more than that.
    found.lost = max(0, found.lost - found.damaged_decisions)
    found.rewards_lost = max(0, found.rewards_lost - found.damaged_rewards)
    unjoined = found.rewards_sent - found.rewards_joined
    found.unjoined_by_damage = min(unjoined, found.damaged_decisions + found.damaged_rewards)
    return found


def _by_event(rows: Iterable[dict[str, Any]], prefix: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["event_id"].startswith(prefix):
            found[row["event_id"]].append(row)
    return dict(found)


def _told(row: Mapping[str, Any]) -> Answer:
    return row["action_id"], row["propensity"], row["policy_version"]


def _acknowledged_are_stored(
    found: Finding,
    records: Mapping[str, Record],
    decisions: Mapping[str, list[dict[str, Any]]],
    named: set[int],
) -> None:
    found.in_store = len(decisions)
    for event_id, record in records.items():
        rows = decisions.get(event_id, [])
        if record.answer is None:
            found.unanswered_in_store += bool(rows)
            continue
        if record.changed and (
            any(row["offset"] in named for row in rows) or (named and record.answer not in map(_told, rows))
        ):
            found.answered_anew += 1
        elif record.changed:
            found.note("answers_changed", event_id)
        if record.answer not in map(_told, rows):
            found.note("lost", f"{event_id}: told {record.answer}, stored {rows}")


def _acknowledged_rewards_are_stored(
    found: Finding, sent: Mapping[str, Sequence[Sent]], stored: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Each in a row of its own: on time, late, second, for nobody. What was sent until it was taken may be in twice."""
    for event_id, rewards in sent.items():
        left = [row["reward"] for row in stored.get(event_id, [])]
        for reward in rewards:
            if reward.acknowledged_at is None:
                continue
            match = next((value for value in left if abs(value - reward.value) <= TOLERANCE), None)
            if match is None:
                found.note("rewards_lost", f"{event_id}: {reward}, stored {stored.get(event_id, [])}")
            else:
                left.remove(match)


def _each_once(
    found: Finding,
    decisions: Mapping[str, list[dict[str, Any]]],
    interactions: Mapping[str, list[dict[str, Any]]],
    named: set[int],
) -> None:
    for event_id, rows in decisions.items():
        closed = interactions.get(event_id, [])
        if sum(row["offset"] not in named for row in rows) > 1 or len(closed) > 1:
            found.note("duplicates", f"{event_id}: {len(rows)} decisions, {len(closed)} interactions")
        if not closed:
            found.note("open", event_id)
        elif _told(closed[0]) not in map(_told, rows):
            found.note("altered", f"{event_id}: the interaction is of another decision: {closed[0]}")


def _numbering(found: Finding, tables: Mapping[str, list[dict[str, Any]]], named: Mapping[str, set[int]]) -> None:
    seqs = sorted(row["seq"] for row in tables["interactions"])
    if seqs != list(range(1, len(seqs) + 1)):
        found.note("seq_gaps", f"{len(seqs)} interactions, seq {seqs[0]}..{seqs[-1]}")
    for name in ("decisions", "rewards"):
        offsets: dict[str, list[int]] = defaultdict(list)
        for row in tables[name]:
            offsets[row["producer"]].append(row["offset"])
        for row in tables["rejected_events"]:
            if row["kind"] == name.removesuffix("s"):
                offsets[row["producer"]].append(row["offset"])
                if row["offset"] not in named[name]:
                    found.note(
                        "seq_gaps", f"{name} {row['offset']} was set apart, and nobody named it: {row['reason']}"
                    )
        for producer, given in offsets.items():
            if sorted(given) != list(range(1, len(given) + 1)):
                found.note("seq_gaps", f"{name} of {producer}: {len(given)} rows, offsets up to {max(given)}")


def _rewards(
    found: Finding,
    tables: Mapping[str, list[dict[str, Any]]],
    decisions: Mapping[str, list[dict[str, Any]]],
    interactions: Mapping[str, list[dict[str, Any]]],
    wait_s: float,
    prefix: str,
) -> dict[str, _Reward]:
    """The reward that each decision was closed by: every reward is used once or set apart once, and by the rules."""
    apart = Counter((row["producer"], row["offset"]) for row in tables["rewards_apart"])
    reasons = {(row["producer"], row["offset"]): row["reason"] for row in tables["rewards_apart"]}
    winners: dict[str, _Reward] = {}
    for event_id, rows in _by_event(tables["rewards"], prefix).items():
        sent = [_Reward(r["producer"], r["offset"], r["reward"], r["received_at"].timestamp()) for r in rows]
        used = [reward for reward in sent if not apart[reward[:2]]]
        closed = interactions.get(event_id, [])
        by_reward = bool(closed) and closed[0]["closed_by"] == "reward"
        if len(used) > by_reward or any(apart[reward[:2]] > 1 for reward in sent):
            found.note("rewards_used_twice", f"{event_id}: {len(used)} rewards not set apart, closed {closed}")
            continue
        if by_reward != bool(used):
            found.note("rewards_misplaced", f"{event_id}: closed by a reward that is set apart: {closed}")
            continue
        if not decisions.get(event_id):
            continue
        deadline = min(row["decided_at"].timestamp() for row in decisions[event_id]) + wait_s
        on_time = [r for r in sent if r.received_at <= deadline and reasons.get(r[:2]) != "unknown"]
        best = min(on_time, default=None)
        if (used[0] if used else None) != best:
            found.note("rewards_misplaced", f"{event_id}: used {used}, by the rules {best} of {sent}")
        elif best is not None:
            if abs(closed[0]["reward"] - best.value) > TOLERANCE:
                found.note("rewards_misplaced", f"{event_id}: closed with {closed[0]['reward']}, sent {best.value}")
            winners[event_id] = best
    return winners


def _promised_rewards(
    found: Finding,
    records: Mapping[str, Record],
    interactions: Mapping[str, list[dict[str, Any]]],
    winners: Mapping[str, _Reward],
    wait_s: float,
) -> None:
    """Rewards that were surely on time, by their clients' clocks, and what their decisions were closed with."""
    for event_id, record in records.items():
        if not record.rewards or record.answered_at is None:
            continue
        first = record.rewards[0]
        surely = first.acknowledged_at is not None and first.acknowledged_at - record.asked_at <= wait_s
        if not surely or record.answered_at - first.at >= wait_s:
            continue
        found.rewards_sent += 1
        closed = interactions.get(event_id, [])
        values = [sent.value for sent in record.rewards]
        if event_id in winners and closed and any(abs(closed[0]["reward"] - v) <= TOLERANCE for v in values):
            found.rewards_joined += 1
        elif len(found.examples["rewards_unjoined"]) < EXAMPLES:
            found.examples["rewards_unjoined"].append(f"{event_id}: {record}, closed {closed}")
