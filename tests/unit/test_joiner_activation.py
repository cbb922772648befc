"""How deferred decisions close: against a model, whatever is read first, and over a log older than its columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_core.backends.local.joining.rules import Closed, JoinRules
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join
from rl_core.errors import StoreError
from rl_core.schema import TABLES, arrow_schema
from tests.log_rows import (
    START,
    WAIT_S,
    activation,
    activations,
    at,
    decision,
    decisions,
    log,
    older_activation,
    reward,
    rewards,
)

ADDED = {"deferred", "subject", "activation"}
DEFAULT, EARNED = -1.0, 2.0
SECONDS = st.integers(0, 2 * WAIT_S)
EVENTS = st.lists(st.tuples(st.sampled_from("abc"), SECONDS, st.booleans()), max_size=12)


def model(
    deferred: dict[str, bool], events: list[tuple[str, int, bool]]
) -> tuple[dict[str, str], set[tuple[int, str]]]:
    """How each decision closes and what is set apart, by offset; all were decided at 0."""
    closed = {key: "unactivated" if waits else "timeout" for key, waits in deferred.items()}
    apart = set()
    for offset, (key, second, activates) in enumerate(events, 1):
        if activates:
            if key in deferred and second <= WAIT_S:
                closed[key] = "reward" if closed[key] == "reward" else "timeout"
        elif key not in deferred:
            apart.add((offset, "unknown"))
        elif second > WAIT_S:
            apart.add((offset, "late"))
        elif closed[key] == "reward":
            apart.add((offset, "duplicate"))
        else:
            closed[key] = "reward"
    return closed, apart


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from("ab"), st.booleans()), EVENTS, st.lists(st.integers(0, 12)), st.booleans())
@settings(max_examples=300, deadline=None)
def test_deferred_decisions_close_as_in_the_model_whenever_they_are_read(
    deferred: dict[str, bool], events: list[tuple[str, int, bool]], places: list[int], close_early: bool
) -> None:
    events = sorted(events, key=lambda event: event[1])
    earned = [
        activation(key, second, offset) if activates else reward(key, second, offset, EARNED)
        for offset, (key, second, activates) in enumerate(events, 1)
    ]
    steps: list[tuple[Any, Any]] = [((), (row,)) for row in earned]
    for n, (key, waits) in enumerate(deferred.items()):
        place = min((places[n : n + 1] or [0])[0], len(steps))
        steps.insert(place, ((decision(key, 0, n + 1, deferred=waits),), ()))
    rules = JoinRules(Join(reward_wait_s=WAIT_S, close_early=close_early), DEFAULT)
    known: dict[str, Closed] = {}
    apart: set[tuple[int, str]] = set()
    for (made, read), watermark in [*((step, None) for step in steps), (((), ()), at(99))]:
        joined = rules.step(decisions(*made), rewards(*read), known, watermark, START, activations(*read))
        for row in joined.interactions.to_pylist():
            assert row["served"] == (row["closed_by"] != "unactivated")
            assert row["reward"] == (EARNED if row["closed_by"] == "reward" else DEFAULT)
            known[row["event_id"]] = Closed(_micros(row["decided_at"]), _micros(row["received_at"]), row["closed_by"])
        apart |= {(row["offset"], row["reason"]) for row in joined.apart.to_pylist()}
    assert ({key: one.closed_by for key, one in known.items()}, apart) == model(deferred, events)


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_after_a_crash_an_activation_that_looks_like_the_reward_is_not_taken_for_it(
    movielens: Bandit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bandit = movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})
    store = DeltaEventStore(tmp_path / "store")
    store.append("decisions", decisions(decision("a", 0, deferred=True)))
    log(store, older_activation("a", 1, 1), activation("a", 1, 2), reward("a", 1, 3, 0.0))

    def fail(*_: object) -> None:
        raise StoreError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(store, "note_checkpoint", fail)
        with pytest.raises(StoreError, match="killed"):
            store.joiner(bandit).run(at(20))
    store.joiner(bandit).run(at(20))
    assert store.query("SELECT * FROM rewards_apart").num_rows == 0
    [row] = store.interactions((0, store.head())).to_pylist()
    assert (row["closed_by"], row["reward"], store.pending().rewards["offset"].to_pylist()) == ("reward", 0.0, [])


def test_a_log_written_before_the_columns_is_read_appended_to_and_joined(
    movielens: Bandit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bandit = movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})
    made, earned = decisions(decision("a", 0)), rewards(reward("b", 1))
    with monkeypatch.context() as patch:
        patch.delitem(TABLES, "activations")
        for name, columns in TABLES.items():
            patch.setitem(TABLES, name, tuple(column for column in columns if column.name not in ADDED))
        older = DeltaEventStore(tmp_path / "store")
        for table, rows in (("decisions", made), ("rewards", earned)):
            older.append(table, rows.select(arrow_schema(TABLES[table]).names))  # type: ignore[arg-type]
    store = DeltaEventStore(tmp_path / "store")
    pending = store.pending()
    assert (pending.decisions.equals(made), pending.rewards.equals(earned)) == (True, True)
    store.append("decisions", decisions(decision("b", 0, 2, deferred=True), decision("c", 0, 3, deferred=True)))
    log(store, activation("a", 1, 2))
    store.joiner(bandit).run(at(99))
    found = store.interactions((0, 3), ["event_id", "closed_by", "deferred", "subject"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("a", "timeout", None, None),
        ("b", "reward", True, None),
        ("c", "unactivated", True, None),
    ]
