"""The four contracts of a backend: message bus, event store, policy registry, endpoint.

`tests/contract/` runs one suite over every implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa

Topic = Literal["decisions", "rewards"]
Window = tuple[int, int]
"""`(seq_low, seq_high]`: every interaction belongs to exactly one window."""


@dataclass(frozen=True)
class Message:
    """What a client of the bus publishes. `key` is the event_id; a decision's key is taken once, a reward's repeats."""

    topic: Topic
    key: str
    payload: bytes


@dataclass(frozen=True)
class Receipt:
    """The bus's answer: where the message stands, and what stands there.

    `payload` differs from what was published where `repeated` is true: the first decision under a key wins.
    """

    offset: int
    received_at: datetime
    payload: bytes
    repeated: bool


@dataclass(frozen=True)
class Delivery:
    offset: int
    key: str
    payload: bytes
    received_at: datetime


BUS_PREFIX = "bus-"


class Publisher(Protocol):
    """The side of the message bus that the server writes to. Offsets are gap-free from 1 within (producer, topic)."""

    @property
    def producer(self) -> str:
        """Begins with BUS_PREFIX: the joiner times such decisions out by the bus's watermark, a job's never."""

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        """All of it is durable when it returns. Raises BusError: none of it counts as accepted; publish it again."""

    def now(self) -> datetime:
        """The time by the clock of the stamps: what is published later has `received_at` >= this. Never waits."""

    def lookup(self, topic: Topic, key: str) -> bytes | None:
        """The payload accepted under this key, if this publisher knows of one."""

    def close(self) -> None: ...


class MessageBus(Publisher, Protocol):
    """A bus that a process reads by offset: the local one. Pub/Sub pushes its messages to the logger function."""

    def read(self, topic: Topic, after_offset: int, limit: int = 10_000) -> list[Delivery]:
        """By offset, from what is kept on without a gap; a message that is gone (`forget`) leaves an empty one."""

    def watermark(self) -> datetime:
        """A time T such that every message with received_at < T is visible to `read` from now on."""

    def head(self, topic: Topic) -> int:
        """The last offset given, 0 if none."""

    def prune(self, topic: Topic, up_to_offset: int, keep_after: datetime) -> int:
        """Forget consumed messages received before `keep_after`; returns how many."""

    def forget(self, keys: Sequence[str]) -> int:
        """Take the messages under these keys away for good; returns how many. Read, their offsets give empty ones."""


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


@dataclass(frozen=True)
class WindowRef:
    """A window whose block counts in a policy. `block` is the content digest of the stored block."""

    seq_low: int
    seq_high: int
    block: str


@dataclass(frozen=True)
class Exclusion:
    """A window that a policy leaves out, and so does every retrain from it; `rl_core/bandit/windows.py` says which."""

    seq_low: int
    seq_high: int
    reason: str


@dataclass(frozen=True)
class Lineage:
    parent: str | None
    windows: tuple[WindowRef, ...]
    excluded: tuple[Exclusion, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One try at training: recorded whatever its verdict. `key` makes recording idempotent."""

    key: str
    windows: tuple[Window, ...]
    verdict: Literal["promoted", "rejected"]
    version: str | None
    trigger: Literal["startup", "sensor", "manual"]
    reason: str
    at: datetime
    metrics: dict[str, float] = field(default_factory=dict)


class PolicyRegistry(Protocol):
    """Versions with lineage, aliases, attempts, and the immutable blocks that policies are sums of."""

    def put_block(self, source: Path) -> str:
        """Store a block file under its content digest and return the digest; idempotent."""

    def block_path(self, digest: str) -> Path: ...

    def register(self, artefact: Path, lineage: Lineage) -> str:
        """Copy the artefact in and return its version `{prefix}-{pipe_version}-{n:04d}`.

        Idempotent: the same artefact (manifest digest) and lineage give the same version.
        """

    def versions(self) -> list[str]: ...

    def path(self, version: str) -> Path: ...

    def lineage(self, version: str) -> Lineage: ...

    def alias(self, name: Literal["champion", "challenger"]) -> str | None: ...

    def stage(self, version: str) -> None:
        """Point `challenger` at the version: the endpoint loads and probes it."""

    def promote(self, version: str, expected_champion: str | None, attempt: Attempt | None = None) -> None:
        """Compare-and-swap of `champion`, and the record of the attempt that won it, in one step.

        Already being champion is success. Raises PromotionConflict.
        """

    def restore(self, champion: str | None, expected_champion: str, attempt: Attempt | None = None) -> None:
        """Undo a promotion that never came to serve, in one step: swap back, also to no champion; forget its attempt.

        Raises PromotionConflict.
        """

    def record(self, attempt: Attempt) -> None:
        """Keep the attempt; a second one under the same key is dropped."""

    def attempts(self) -> list[Attempt]:
        """All of them, whatever their verdict, in the order they were recorded."""

    def lease(self, holder: str, ttl_s: float) -> None:
        """Take or renew the training lease. Raises LeaseHeld, naming holder and expiry."""

    def release(self, holder: str) -> None:
        """Give the lease back; releasing what one doesn't hold does nothing."""


class Endpoint(Protocol):
    """What serves predictions."""

    def stage(self, version: str, timeout_s: float = 30.0) -> None:
        """Return once the endpoint has loaded the version and its probes matched. Raises EndpointError, PolicyError."""

    def wait_serving(self, version: str, timeout_s: float = 30.0) -> None:
        """Return once the version answers as champion. Raises EndpointError."""

    def state(self) -> dict[str, Any]:
        """`{"champion": …, "challenger": …, "loaded": […], "refused": {version: reason}, …}`. Raises EndpointError."""
