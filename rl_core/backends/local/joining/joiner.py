"""The joiner over an event store: the only writer of `interactions` and `rewards_apart`.

All state is in the store. A process killed anywhere leaves what is closed closed; the next one reads what is pending.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa

from rl_core.backends.contracts.store import JoinableStore, JoinRun, Pending
from rl_core.backends.local.joining.rules import Closed, JoinRules
from rl_core.config import Bandit

_TABLES: tuple[Literal["decisions", "rewards", "activations"], ...] = ("decisions", "rewards", "activations")
_NOTE_EVERY_S = 30.0  # a restarted joiner looks again at what came since


class StoreJoiner:
    """Runs the rules over an event store; keeps what is open in memory between runs, as long as nobody else joins."""

    def __init__(self, bandit: Bandit, store: JoinableStore) -> None:
        self._bandit = bandit
        self._store = store
        self._rules: JoinRules | None = None
        self._head = self._revision = 0
        self._noted = float("-inf")
        self._offsets: dict[str, dict[str, int]] = {}

    def run(self, watermark: datetime | None) -> JoinRun:
        with self._store.joiner_lock():
            rules, self._rules = self._rules, None
            complete = self._store.completions()  # before the rows: what a job has completed is among them
            here = (self._store.head(), self._store.revision())
            if rules is None or here != (self._head, self._revision):
                rules, new = self._recover()
            else:
                new = self._arrived()
            asked = rules.to_look_up(new.decisions, new.rewards, new.activations) if self._head else []
            known = _closed(self._store.closed(asked))
            joined = rules.step(
                new.decisions, new.rewards, known, watermark, datetime.now(UTC), new.activations, complete
            )
            count = joined.interactions.num_rows
            seqs = pa.array(np.arange(self._head + 1, self._head + count + 1, dtype=np.int64))
            self._store.append_interactions(joined.interactions.add_column(0, "seq", seqs))
            self._store.append_apart(joined.apart)
            self._head += count
            self._rules = rules
            if time.monotonic() - self._noted > _NOTE_EVERY_S:
                self._store.note_checkpoint(rules.finished(self._offsets), self._offsets["rewards"])
                self._noted = time.monotonic()
        return JoinRun(count, joined.apart.num_rows, self._head, rules.open)

    def _recover(self) -> tuple[JoinRules, Pending]:
        pending = self._store.pending()
        self._head, self._revision = self._store.head(), self._store.revision()
        self._offsets = {table: dict(offsets) for table, offsets in pending.offsets.items()}
        return JoinRules(self._bandit.join, self._bandit.problem.reward_default, self._offsets["rewards"]), pending

    def _arrived(self) -> Pending:
        arrived = {}
        for table in _TABLES:
            rows = arrived[table] = self._store.since(table, self._offsets[table])
            last = dict(zip(rows["producer"].to_pylist(), rows["offset"].to_pylist(), strict=True))
            self._offsets[table].update(last)  # rows ascend within a producer: the last one stands
        return Pending(**arrived, offsets=self._offsets)


def _closed(rows: pa.Table) -> dict[str, Closed]:
    times = (rows[name].cast(pa.int64()) for name in ("decided_at", "received_at"))
    known = zip(*(column.to_pylist() for column in (rows["event_id"], *times, rows["closed_by"])), strict=True)
    return {event_id: Closed(*values) for event_id, *values in known}
