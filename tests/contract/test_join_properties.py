"""Event store and joiner against a model of ten lines: any delay, repetition and order, crashes, and two joiners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from rl_core.backends.contracts.store import EventStore
from rl_core.backends.local.joining.joiner import StoreJoiner
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join
from tests.join_model import Apart, Closed, Crash, History, Step, histories, joined, told
from tests.log_rows import WAIT_S, at, decisions, log

DEFAULT = -1.0
ANEW = settings(  # other histories every time; a failure tells its shortest one, and how to have it again
    derandomize=False, print_blob=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


def joining(bandit: Bandit, history: History) -> Bandit:
    join = Join(reward_wait_s=WAIT_S, close_early=history.close_early)
    problem = bandit.problem.model_copy(update={"reward_default": DEFAULT})
    return bandit.model_copy(update={"join": join, "problem": problem})


def closed(store: EventStore) -> Closed:
    """That no seq is missing is what reading the window promises."""
    return told(store.interactions((0, store.head())).to_pylist())


def apart(store: EventStore) -> Apart:
    rows = store.query("SELECT * FROM rewards_apart").to_pylist()
    found = {(row["producer"], row["offset"], row["reason"]) for row in rows}
    assert len(found) == len(rows), "a reward was set apart twice"
    return found


class Killed(Exception):
    pass


class Mortal(DeltaEventStore):
    """The store of a process that dies at a write."""

    crash: Crash | None = None

    def append_interactions(self, rows: pa.Table) -> None:
        self._dying("append_interactions", lambda: super(Mortal, self).append_interactions(rows))

    def append_apart(self, rows: pa.Table) -> None:
        self._dying("append_apart", lambda: super(Mortal, self).append_apart(rows))

    def _dying(self, method: str, write: Callable[[], None]) -> None:
        dies = self.crash if self.crash is not None and self.crash[0] == method else None
        if dies is None or dies[1] == "after":
            write()
        if dies is not None:
            raise Killed


@pytest.mark.slow
@pytest.mark.timeout(900)  # seconds where all is well; to find the shortest history takes minutes
@given(histories(in_order=True))
@settings(ANEW, max_examples=15)
def test_on_one_machine_any_history_ends_as_the_model_says(movielens: Bandit, history: History) -> None:
    bandit = joining(movielens, history)
    with TemporaryDirectory() as folder:
        stores = [Mortal(Path(folder) / "store") for _ in range(2)]
        joiners = [StoreJoiner(bandit, store) for store in stores]
        before: Closed = {}
        for step in history.steps:
            for _ in range(1 + step.again):
                append(stores[0], step)
            one, store = step.joiner, stores[step.joiner]
            store.crash = step.crash
            if step.restarted:
                joiners[one] = StoreJoiner(bandit, store)
            try:
                joiners[one].run(None if step.watermark is None else at(step.watermark))
            except Killed:
                joiners[one] = StoreJoiner(bandit, store)
            now = closed(store)
            assert before.items() <= now.items(), "what was closed has changed"
            before = now
        assert (before, apart(stores[0])) == joined(history.decisions, history.rewards, DEFAULT)


def append(store: EventStore, step: Step) -> None:
    """As the event logger does: producer by producer."""
    for producer in {row["producer"] for row in (*step.decisions, *step.rewards)}:
        store.append("decisions", decisions(*(row for row in step.decisions if row["producer"] == producer)))
        log(store, *(row for row in step.rewards if row["producer"] == producer))
