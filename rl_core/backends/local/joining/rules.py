"""The joiner's rules, without input or output.

- Of several decisions under one event_id the first by (received_at, producer, offset) counts; an unserved one
  never does.
- A decision closes once: when its wait is over and the bus's watermark has passed it. Without a reward it gets the
  default one.
- A reward is on time if received_at <= decided_at + reward_wait; the first by (producer, offset) wins.
- The others are set apart as `late`, `duplicate` or `unknown`. A reward is `unknown` (unmatched) when no decision came
  within the wait, and stays so for a decision that is received later, even where a joiner still holds it: what becomes
  of a log must not depend on who reads it when.
- `close_early` closes a decision at its first reward on time.
- A deferred decision trains only if its answer was used, which an activation or a reward on time confirms. Without
  either it closes as `unactivated`: it counts as unserved, and keeps its seq.
- An activation is no reward: it wins nothing, closes nothing, and is never set apart.
- A job's decision (its producer is no bus) closes at its reward: a job rewards each decision once, and no watermark
  speaks for it. Without one it closes with the default when the job has said that it is complete, or when its wait is
  over and the job has begun to reward: before that, its rewards may not be there yet (docs/decisions/0015).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.backends.contracts.bus import BUS_PREFIX
from rl_core.backends.local.joining.at_once import pair
from rl_core.backends.local.joining.deadlines import Deadlines
from rl_core.backends.local.joining.interactions import closed_as, closed_with_rewards, in_order
from rl_core.config import Join
from rl_core.schema import REWARD_APART_SCHEMA

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER, _EVER = -(2**63), 2**63


class _Reward(NamedTuple):
    """Times in microseconds since 1970."""

    event_id: str
    reward: float
    observed_at: int
    received_at: int
    producer: str
    offset: int


class _Activation(NamedTuple):
    """`table` is where it lies: logs of before `activations` have some among the rewards."""

    event_id: str
    received_at: int
    producer: str
    offset: int
    table: str


E = TypeVar("E", _Reward, _Activation)


class Span(NamedTuple):
    """The times between which a reward is on time, in µs since 1970."""

    first: int
    last: int


@dataclass(slots=True)
class _Open:
    rows: pa.Table
    row: int
    stamp: tuple[int, str, int]
    span: Span
    by_job: bool
    deferred: bool
    rewards: list[_Reward] = field(default_factory=list)
    activations: list[_Activation] = field(default_factory=list)

    def in_time(self, event: _Reward | _Activation) -> bool:
        return self.span.first <= event.received_at <= self.span.last

    @property
    def used(self) -> bool:
        events: list[_Reward | _Activation] = [*self.rewards, *self.activations]
        return not self.deferred or any(self.in_time(event) for event in events)

    @property
    def winner(self) -> _Reward | None:
        on_time = (reward for reward in self.rewards if self.in_time(reward))
        return min(on_time, key=lambda reward: (reward.producer, reward.offset), default=None)

    @property
    def deadline(self) -> int:
        return max(self.span.last, self.stamp[0])


class Closed(NamedTuple):
    """What the look-up knows of a closed decision; times in µs since 1970."""

    decided_at: int
    received_at: int
    closed_by: str


@dataclass(frozen=True)
class Joined:
    """What a step closed: interactions without their seq, and rewards set apart; else as their tables."""

    interactions: pa.Table
    apart: pa.Table


class JoinRules:
    """The joiner's state between steps.

    Memory is bounded by the open decisions, and the rewards and activations that wait for one.
    """

    def __init__(self, join: Join, reward_default: float, rewarding: Iterable[str] = ()) -> None:
        """Args: rewarding: producers that have rewards in the log."""
        self._wait = int(join.reward_wait_s * 1_000_000)
        self._early = join.close_early
        self._default = reward_default
        self._open: dict[str, _Open] = {}
        self._waiting: dict[str, list[_Reward]] = {}
        self._early_activations: dict[str, list[_Activation]] = {}
        self._deadlines = Deadlines()
        self._of_jobs: dict[str, Deadlines] = {}
        self._rewarding = set(rewarding)

    @property
    def open(self) -> int:
        return len(self._open)

    def finished(self, read: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Return the offsets by table and producer up to which nothing read is open or waits: the checkpoint."""
        held: dict[str, list[tuple[str, int]]] = {table: [] for table in read}
        held["decisions"] = [(one.stamp[1], one.stamp[2]) for one in self._open.values()]
        for rewards in [*(one.rewards for one in self._open.values()), *self._waiting.values()]:
            held["rewards"] += [(reward.producer, reward.offset) for reward in rewards]
        for activations in [*(one.activations for one in self._open.values()), *self._early_activations.values()]:
            for activation in activations:
                held[activation.table].append((activation.producer, activation.offset))
        return {table: _below(offsets, held[table]) for table, offsets in read.items()}

    def to_look_up(self, *tables: pa.Table) -> list[str]:
        """Return the event ids among these rows that may belong to a closed decision."""
        ids = pa.chunked_array([chunk for rows in tables for chunk in rows["event_id"].chunks], pa.string())
        return [event_id for event_id in ids.unique().to_pylist() if event_id not in self._open]

    def step(
        self,
        decisions: pa.Table,
        rewards: pa.Table,
        closed: Mapping[str, Closed],
        watermark: datetime | None,
        now: datetime,
        activations: pa.Table | None = None,
        complete: Mapping[str, int] | None = None,
    ) -> Joined:
        """Take new rows in and return what they and the watermark close; `closed` is what `to_look_up` found.

        Args:
            complete: of each job that is, its last decision of which that was said.
        """
        passed = _micros(watermark) if watermark is not None else _NEVER
        complete = complete or {}
        self._rewarding.update(rewards["producer"].unique().to_pylist())
        activated = [] if activations is None else _activations_of(activations, "activations")
        older = pc.fill_null(rewards["activation"], False)
        if pc.any(older).as_py():
            activated += _activations_of(rewards.filter(older), "rewards")
            rewards = rewards.filter(pc.invert(older))
        used = {one.event_id for one in activated}
        known = (self._open, self._waiting, self._early_activations, closed, used)
        paired, its, decisions, rewards = pair(decisions, rewards, self._wait, known)
        self._open_new(decisions, closed)
        self._activate(activated, closed)
        apart = self._hand_out(rewards, closed)
        won: list[tuple[_Open, _Reward | None]] = []
        news = [*decisions["event_id"].to_pylist(), *rewards["event_id"].to_pylist()]
        due = self._due(passed, complete)
        near = dict.fromkeys([*due, *news])  # of no other can it be said that it closes now
        for event_id in [key for key in near if key in self._open and self._closes(key, passed, complete)]:
            one = self._open.pop(event_id)
            winner = one.winner
            won.append((one, winner))
            others = (reward for reward in one.rewards if reward is not winner)
            apart += [(reward, _lost(reward, one.span, "reward")) for reward in others]
        for event_id in due:
            if (still := self._open.get(event_id)) is not None:
                self._await(event_id, still)
        for deadlines in (self._deadlines, *self._of_jobs.values()):
            deadlines.keep(self._open, len(self._open))
        apart += [(reward, "unknown") for reward in self._given_up(self._waiting, passed)]
        self._given_up(self._early_activations, passed)
        at_once = closed_with_rewards(paired, its, now)
        return Joined(in_order([at_once, *self._interactions(won, now)]), _apart(apart))

    def _open_new(self, decisions: pa.Table, closed: Mapping[str, Closed]) -> None:
        times = (decisions[name].cast(pa.int64()) for name in ("decided_at", "received_at"))
        others = (decisions[name] for name in ("producer", "offset", "served", "deferred"))
        known = zip(*(column.to_pylist() for column in (decisions["event_id"], *times, *others)), strict=True)
        for row, (event_id, decided_at, received_at, producer, offset, served, deferred) in enumerate(known):
            if not served or event_id in closed:
                continue
            stamp, there = (received_at, producer, offset), self._open.get(event_id)
            if there is None or stamp < there.stamp:
                by_job = not producer.startswith(BUS_PREFIX)
                rewards = there.rewards if there is not None else self._waiting.pop(event_id, [])
                uses = there.activations if there is not None else self._early_activations.pop(event_id, [])
                defers = bool(deferred) and not by_job
                span = self._span(decided_at, received_at)
                one = self._open[event_id] = _Open(decisions, row, stamp, span, by_job, defers, rewards, uses)
                if not (by_job and one.rewards):
                    self._await(event_id, one)

    def _await(self, event_id: str, one: _Open) -> None:
        """Remember when a decision is due."""
        producer = one.stamp[1]
        if one.by_job and producer not in self._of_jobs:
            self._of_jobs[producer] = Deadlines()
        deadlines = self._of_jobs[producer] if one.by_job else self._deadlines
        deadlines.add(one.deadline, event_id)

    def _due(self, passed: int, complete: Mapping[str, int]) -> list[str]:
        """Take out the ids whose time may have come."""
        due = self._deadlines.before(passed)
        for producer, deadlines in self._of_jobs.items():
            if producer in complete:
                due += deadlines.before(_EVER)
            elif producer in self._rewarding:
                due += deadlines.before(passed)
        self._of_jobs = {producer: deadlines for producer, deadlines in self._of_jobs.items() if len(deadlines)}
        return due

    def _closes(self, event_id: str, passed: int, complete: Mapping[str, int]) -> bool:
        one = self._open[event_id]
        _, producer, offset = one.stamp
        if one.by_job:
            over = one.deadline < passed and producer in self._rewarding
            return bool(one.rewards) or over or offset <= complete.get(producer, 0)
        return one.deadline < passed or (self._early and one.winner is not None)

    def _span(self, decided_at: int, received_at: int) -> Span:
        return Span(received_at - self._wait, decided_at + self._wait)

    def _hand_out(self, rewards: pa.Table, closed: Mapping[str, Closed]) -> list[tuple[_Reward, str]]:
        """Each reward to its decision, or to those that wait for one; returns those that come after the close."""
        apart = []
        for reward in _rewards_of(rewards):
            if reward.event_id in self._open:
                self._open[reward.event_id].rewards.append(reward)
            elif reward.event_id in closed:
                known = closed[reward.event_id]
                span = self._span(known.decided_at, known.received_at)
                apart.append((reward, _lost(reward, span, known.closed_by)))
            else:
                self._waiting.setdefault(reward.event_id, []).append(reward)
        return apart

    def _activate(self, activations: Iterable[_Activation], closed: Mapping[str, Closed]) -> None:
        """Each to its decision, or to those that wait for one; of what is closed it changes nothing any more."""
        for one in activations:
            if one.event_id in self._open:
                self._open[one.event_id].activations.append(one)
            elif one.event_id not in closed:
                self._early_activations.setdefault(one.event_id, []).append(one)

    def _given_up(self, waiting: dict[str, list[E]], passed: int) -> list[E]:
        over = [
            key
            for key, events in waiting.items()
            if all(one.producer.startswith(BUS_PREFIX) and one.received_at + self._wait < passed for one in events)
        ]
        return [one for key in over for one in waiting.pop(key)]

    def _interactions(self, won: list[tuple[_Open, _Reward | None]], now: datetime) -> list[pa.Table]:
        """By the table that the decisions came in."""
        groups: dict[int, list[tuple[_Open, _Reward | None]]] = {}
        for one in won:
            groups.setdefault(id(one[0].rows), []).append(one)
        return [
            closed_as(
                group[0][0].rows.take([one.row for one, _ in group]),
                [reward.reward if reward else self._default for _, reward in group],
                [reward and reward.observed_at for _, reward in group],
                [reward and reward.received_at for _, reward in group],
                ["reward" if reward else "timeout" if one.used else "unactivated" for one, reward in group],
                now,
            )
            for group in groups.values()
        ]


def _lost(reward: _Reward, span: Span, closed_by: str) -> str:
    """Why a reward that its decision was not closed with is set apart."""
    if reward.received_at < span.first:
        return "unknown"
    on_time = reward.received_at <= span.last
    return "duplicate" if on_time and closed_by == "reward" else "late"


def _below(read: Mapping[str, int], held: Iterable[tuple[str, int]]) -> dict[str, int]:
    done = dict(read)
    for producer, offset in held:
        done[producer] = min(done.get(producer, 0), offset - 1)
    return done


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _rewards_of(rows: pa.Table) -> list[_Reward]:
    times = pa.int64()
    columns = (
        rows["event_id"],
        rows["reward"],
        rows["observed_at"].cast(times),
        rows["received_at"].cast(times),
        rows["producer"],
        rows["offset"],
    )
    return [_Reward(*values) for values in zip(*(column.to_pylist() for column in columns), strict=True)]


def _activations_of(rows: pa.Table, table: str) -> list[_Activation]:
    columns = (rows["event_id"], rows["received_at"].cast(pa.int64()), rows["producer"], rows["offset"])
    values = zip(*(column.to_pylist() for column in columns), strict=True)
    return [_Activation(event_id, at, producer, offset, table) for event_id, at, producer, offset in values]


def _apart(rewards: Sequence[tuple[_Reward, str]]) -> pa.Table:
    rows = [reward._asdict() | {"reason": reason} for reward, reason in rewards]
    return pa.Table.from_pylist(rows, schema=REWARD_APART_SCHEMA)
