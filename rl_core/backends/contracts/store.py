"""The event store contract: the log of decisions, rewards and interactions, and the joiner that writes the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import pyarrow as pa

from rl_core.config import Bandit

Window = tuple[int, int]
"""`(seq_low, seq_high]`: every interaction belongs to exactly one window."""


@dataclass(frozen=True)
class Pending:
    """What the joiner has to read: decisions without interaction, rewards without use, and activations of what is open.

    Args:
        offsets: by table and producer, the last one that was looked at.
    """

    decisions: pa.Table
    rewards: pa.Table
    activations: pa.Table
    offsets: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class JoinRun:
    """What one run of the joiner did, and where it left the log."""

    interactions: int
    apart: int
    head: int
    open: int


class Joiner(Protocol):
    """Joins decisions with rewards; the only writer of `interactions` and `rewards_apart`. Any number may run."""

    def run(self, watermark: datetime | None) -> JoinRun:
        """Join everything that is in the store, as far as its time has come. Raises StoreError: run it again.

        Args:
            watermark: every event a bus received before it is in the store; None closes no decision by timeout.
        """


@dataclass(frozen=True)
class OpenDecisions:
    """How many decisions of a producer no interaction holds yet, and when the oldest of them was received."""

    producer: str
    count: int
    since: datetime


@dataclass(frozen=True)
class Forgotten:
    """What there was of the subjects and events to delete: event ids, seqs of interactions, and rows by table."""

    event_ids: tuple[str, ...]
    seqs: tuple[int, ...]
    counts: Mapping[str, int]


class EventStore(Protocol):
    """The tables decisions, rewards, activations, interactions, rewards_apart; only the joiner writes the last two."""

    @property
    def bytes_scanned(self) -> int:
        """Bytes that this object's queries were billed for; 0 where nobody bills."""

    def append(self, table: Literal["decisions", "rewards"], rows: pa.Table) -> int:
        """Append rows of one producer with consecutive offsets, ascending; drop rows that are already in.

        A job appends rewards before the decisions that they belong to, and says `complete` in the end: a decision
        whose time is over closes with the default once its job has begun to reward.

        Returns how many were new. Raises StoreError on a gap, SchemaError on a foreign schema.
        """

    def last_offset(self, table: Literal["decisions", "rewards"], producer: str) -> int:
        """Return the last offset stored of a producer, 0 if none."""

    def complete(self, producer: str) -> None:
        """Note that a job has appended all rewards of its decisions so far: the others close with the default.

        Raises StoreError where the producer is a bus.
        """

    def open_decisions(self) -> tuple[OpenDecisions, ...]:
        """Return what waits for its reward, by producer."""

    def append_interactions(self, rows: pa.Table) -> None:
        """Append rows of INTERACTION_SCHEMA atomically. Raises StoreError where seq doesn't continue head."""

    def head(self) -> int:
        """Return the last seq, 0 if none. Cheap: the retrain sensor asks every few seconds."""

    def interactions(self, window: Window, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the window's rows ordered by seq. Raises StoreError where the window reaches past head."""

    def forget(self, subjects: Sequence[str], event_ids: Sequence[str], dry_run: bool = False) -> Forgotten:
        """Delete these subjects' events, and these events, from the log for good. Killed anywhere: run it again.

        Rows leave decisions, rewards, activations, rewards_apart and rejected_events. An interaction keeps its seq as
        an empty row: served is false, closed_by 'forgotten', event_id `forgotten-{seq}`. `dry_run` only returns
        what there is.
        """

    def joiner(self, bandit: Bandit) -> Joiner:
        """Open what joins this store's log by the bandit's rules."""

    def query(self, sql: str) -> pa.Table:
        """Run read-only SQL over the tables by name, in the store's own dialect (local: DuckDB, gcp: BigQuery)."""


class JoinableStore(EventStore, Protocol):
    """A store that the joiner of this process reads and writes row by row: the local one. BigQuery joins by itself."""

    def append(
        self, table: Literal["decisions", "rewards"], rows: pa.Table, aside: Mapping[str, pa.Table] | None = None
    ) -> int:
        """Append as every EventStore does; `rows` and those aside together have consecutive offsets.

        Args:
            aside: activations and dead letters, by table; they lie there before their offsets are passed.
        """

    def append_apart(self, rows: pa.Table) -> None:
        """Append rows of REWARD_APART_SCHEMA; a (producer, offset) already set apart is dropped."""

    def since(self, table: Literal["decisions", "rewards", "activations"], offsets: Mapping[str, int]) -> pa.Table:
        """Return every producer's rows beyond the offset given for it (0 if none), ordered by (producer, offset)."""

    def closed(self, event_ids: Sequence[str]) -> pa.Table:
        """Return event_id, decided_at, received_at, closed_by of those of the decisions that are closed."""

    def completions(self) -> Mapping[str, int]:
        """Return the last decision of each job of which `complete` was said. Read it before the rows."""

    def pending(self) -> Pending:
        """Return what the joiner has not dealt with yet."""

    def note_checkpoint(self, done: Mapping[str, Mapping[str, int]], read: Mapping[str, int]) -> None:
        """Write the joiner's checkpoint: up to these offsets, by table and producer, `pending` may skip everything.

        Call under the joiner's lock.

        Args:
            read: the last reward of each producer that the joiner knows.
        """

    def retire(self, before: datetime) -> Mapping[str, int]:
        """Delete raw rows received before a time that are dealt with; return how many of each table."""

    def revision(self) -> int:
        """Return a number that changes once rows were deleted that a joiner may hold in memory."""

    def joiner_lock(self) -> AbstractContextManager[None]:
        """Hold the lock of the one process that joins; wait for one's turn."""
