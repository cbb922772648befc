"""The joiner over an event store: the only writer of `interactions` and `rewards_apart`.

All state is in the store. A process killed anywhere leaves what is closed closed; the next one reads what is pending.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from rl_core.backends.base import EventStore, Pending
from rl_core.config import Bandit
from rl_core.online.join_rules import Closed, Joiner


@dataclass(frozen=True)
class Run:
    """What one run of the joiner did, and where it left the log."""

    interactions: int
    apart: int
    head: int
    open: int


class StoreJoiner:
    """The rules over an event store; keeps what is open in memory between runs, as long as nobody else joins."""

    def __init__(self, bandit: Bandit, store: EventStore) -> None:
        self._bandit = bandit
        self._store = store
        self._joiner: Joiner | None = None
        self._head = 0
        self._offsets: dict[str, dict[str, int]] = {}

    def run(self, watermark: datetime | None) -> Run:
        """Join everything that is in the store. Raises StoreError; the next run then starts from what is stored.

        Args:
            watermark: every event a bus received before it is in the store; None closes no decision by timeout.
        """
        with self._store.joiner_lock():
            joiner, self._joiner = self._joiner, None
            if joiner is None or self._store.head() != self._head:
                joiner, new = self._recover()
            else:
                new = self._arrived()
            found = self._store.closed(joiner.to_look_up(new.decisions, new.rewards))
            joined = joiner.step(new.decisions, new.rewards, _closed(found), watermark, datetime.now(UTC))
            count = joined.interactions.num_rows
            seqs = pa.array(range(self._head + 1, self._head + count + 1), pa.int64())
            self._store.append_interactions(joined.interactions.add_column(0, "seq", seqs))
            self._store.append_apart(joined.apart)
            self._head += count
            self._joiner = joiner
        return Run(count, joined.apart.num_rows, self._head, joiner.open)

    def _recover(self) -> tuple[Joiner, Pending]:
        pending = self._store.pending()
        self._head = self._store.head()
        self._offsets = {"decisions": dict(pending.decision_offsets), "rewards": dict(pending.reward_offsets)}
        return Joiner(self._bandit.join, self._bandit.problem.reward_default), pending

    def _arrived(self) -> Pending:
        decisions = self._store.since("decisions", self._offsets["decisions"])
        rewards = self._store.since("rewards", self._offsets["rewards"])
        for table, rows in (("decisions", decisions), ("rewards", rewards)):
            last = dict(zip(rows["producer"].to_pylist(), rows["offset"].to_pylist(), strict=True))
            self._offsets[table].update(last)  # rows ascend within a producer: the last one stands
        return Pending(decisions, rewards, {}, {})


def join_pending(bandit: Bandit, store: EventStore, watermark: datetime | None = None) -> Run:
    """Join once, from what is stored: for a job that has appended rows of its own. Waits for its turn."""
    return StoreJoiner(bandit, store).run(watermark)


def _closed(rows: pa.Table) -> dict[str, Closed]:
    columns = (rows["event_id"], rows["decided_at"].cast(pa.int64()), rows["closed_by"])
    known = zip(*(column.to_pylist() for column in columns), strict=True)
    return {event_id: Closed(decided_at, closed_by) for event_id, decided_at, closed_by in known}
