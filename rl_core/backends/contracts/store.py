"""The event store: the log of decisions, rewards and interactions, and the joiner that writes the last of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import pyarrow as pa

Window = tuple[int, int]
"""`(seq_low, seq_high]`: every interaction belongs to exactly one window."""


@dataclass(frozen=True)
class Pending:
    """Served decisions without interaction, and rewards neither used nor set apart, up to these offsets by producer."""

    decisions: pa.Table
    rewards: pa.Table
    decision_offsets: Mapping[str, int]
    reward_offsets: Mapping[str, int]


@dataclass(frozen=True)
class JoinRun:
    """What one run of the joiner did, and where it left the log."""

    interactions: int
    apart: int
    head: int
    open: int


class Joiner(Protocol):
    """The only writer of `interactions` and `rewards_apart`; any number of processes may run one."""

    def run(self, watermark: datetime | None) -> JoinRun:
        """Join everything that is in the store, as far as its time has come. Raises StoreError: run it again.

        Args:
            watermark: every event a bus received before it is in the store; None closes no decision by timeout.
        """


@dataclass(frozen=True)
class Forgotten:
    """What there was of some subjects and events: the events' ids, the seqs of interactions, and rows by table."""

    event_ids: tuple[str, ...]
    seqs: tuple[int, ...]
    counts: Mapping[str, int]


class EventStore(Protocol):
    """decisions, rewards, interactions, rewards_apart. Only the joiner writes the last two."""

    @property
    def bytes_scanned(self) -> int:
        """What this object's queries were billed for, in bytes; 0 where nobody bills."""

    def append(self, table: Literal["decisions", "rewards"], rows: pa.Table) -> int:
        """Append rows of one producer, consecutive offsets, ascending; rows already in are dropped.

        Returns how many were new. Raises StoreError on a gap, SchemaError on a foreign schema.
        """

    def last_offset(self, table: Literal["decisions", "rewards"], producer: str) -> int: ...

    def append_interactions(self, rows: pa.Table) -> None:
        """Rows of INTERACTION_SCHEMA with seq = head+1 …; atomic. Raises StoreError where seq doesn't continue head."""

    def head(self) -> int:
        """The last seq, 0 if none. Cheap: what a sensor asks every few seconds."""

    def interactions(self, window: Window, columns: Sequence[str] | None = None) -> pa.Table:
        """The window's rows ordered by seq. Raises StoreError where the window reaches past head."""

    def forget(self, subjects: Sequence[str], event_ids: Sequence[str], dry_run: bool = False) -> Forgotten:
        """Take these subjects' events, and these events, out of the log for good. Killed anywhere: run it again.

        Rows leave decisions, rewards, rewards_apart and rejected_events. An interaction keeps its seq as an empty row:
        served is false, closed_by 'forgotten', event_id `forgotten-{seq}`. `dry_run` only tells what there is.
        """

    def query(self, sql: str) -> pa.Table:
        """Read-only SQL over the tables by name; in the store's own dialect (local: DuckDB, gcp: BigQuery)."""


class JoinableStore(EventStore, Protocol):
    """A store that the joiner of this process reads and writes row by row: the local one. BigQuery joins by itself."""

    def append(self, table: Literal["decisions", "rewards"], rows: pa.Table, rejected: pa.Table | None = None) -> int:
        """As of every EventStore; `rows` and `rejected` (of REJECTED_EVENT) together have consecutive offsets.

        What is rejected lies in the table `rejected_events` before its offset is passed.
        """

    def append_apart(self, rows: pa.Table) -> None:
        """Rows of REWARD_APART_SCHEMA; a (producer, offset) already set apart is dropped."""

    def since(self, table: Literal["decisions", "rewards"], offsets: Mapping[str, int]) -> pa.Table:
        """Every producer's rows beyond the offset given for it (0 if none), ordered by (producer, offset)."""

    def closed(self, event_ids: Sequence[str]) -> pa.Table:
        """event_id, decided_at, received_at, closed_by of those of the decisions that are closed."""

    def pending(self) -> Pending:
        """What the joiner has not dealt with yet."""

    def note_dealt(self, decisions: Mapping[str, int], rewards: Mapping[str, int], read: Mapping[str, int]) -> None:
        """Under the joiner's lock: up to these offsets by producer all is dealt with, and `pending` may skip it.

        Args:
            read: the last reward of each producer that the joiner knows.
        """

    def retire(self, before: datetime) -> Mapping[str, int]:
        """Delete raw rows that were received before and are dealt with; returns how many of each table."""

    def revision(self) -> int:
        """Another number once rows were taken away that a joiner may hold in memory."""

    def joiner_lock(self) -> AbstractContextManager[None]:
        """Held by the one process that joins; waits for its turn."""
