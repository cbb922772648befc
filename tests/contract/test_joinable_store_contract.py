"""What a store promises that the joiner of this process reads and writes row by row: the local one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pytest

from rl_core.backends.contracts.store import JoinableStore
from rl_core.schema import DECISION_SCHEMA

if TYPE_CHECKING:
    from tests.contract.conftest import Backend, Rows

BACKENDS = ("local",)


@pytest.fixture
def store(backend: Backend) -> JoinableStore:
    return cast(JoinableStore, backend.open_store())


class TestAnEmptyStore:
    def test_has_nothing_to_join(self, store: JoinableStore) -> None:
        assert store.since("rewards", {}).num_rows == store.closed(["a"]).num_rows == 0


class TestSince:
    def test_every_value_comes_back_as_it_went_in(self, store: JoinableStore, rows: Rows) -> None:
        sent = rows.decisions(9)
        assert store.append("decisions", sent) == 9
        found = store.since("decisions", {})
        assert found.schema.equals(DECISION_SCHEMA)
        assert found.equals(sent)

    def test_gives_what_lies_beyond_and_producers_not_named(self, store: JoinableStore, rows: Rows) -> None:
        for producer, number in (("a", 3), ("b's", 2), ("c", 2)):
            store.append("rewards", rows.rewards(number, producer))
        found = store.since("rewards", {"a": 2, "b's": 2})
        assert list(zip(found["producer"].to_pylist(), found["offset"].to_pylist(), strict=True)) == [
            ("a", 3),
            ("c", 1),
            ("c", 2),
        ]


class TestClosed:
    def test_finds_decisions_by_id(self, store: JoinableStore, rows: Rows) -> None:
        store.append_interactions(rows.interactions(4))
        ids = rows.interactions(4)["event_id"].to_pylist()
        found = store.closed([ids[2], ids[0], "unknown"])
        assert found.column_names == ["event_id", "decided_at", "received_at", "closed_by"]
        assert set(found["event_id"].to_pylist()) == {ids[0], ids[2]}
        assert store.closed([]).num_rows == 0


class TestPending:
    def test_is_what_is_neither_joined_nor_set_apart(self, store: JoinableStore, rows: Rows) -> None:
        made, joined = rows.decisions(9), rows.interactions(4)
        store.append("decisions", made)
        store.append("rewards", rows.rewards(5))
        store.append_interactions(joined)
        store.append_apart(rows.apart(1, after=2))
        pending = store.pending()
        assert pending.decisions.equals(made.slice(4).filter(made.slice(4)["served"]))
        assert pending.offsets == {"decisions": {"bus-1": 9}, "rewards": {"bus-1": 5}, "activations": {}}
        # 1 closed an interaction that says so, 3 is set apart; the interactions of even numbers name no reward
        assert pending.rewards["offset"].to_pylist() == [2, 4, 5]

    def test_spares_one_reward_for_each_interaction_it_closed(self, store: JoinableStore, rows: Rows) -> None:
        earned = rows.rewards(1)
        again = earned.set_column(earned.column_names.index("offset"), "offset", pa.array([2]))
        store.append("rewards", earned)
        store.append("rewards", again)
        closed = rows.interactions(1)
        for name, value in (
            ("reward_observed_at", earned["observed_at"]),
            ("reward_received_at", earned["received_at"]),
        ):
            closed = closed.set_column(closed.column_names.index(name), name, value)
        store.append_interactions(closed)
        assert store.pending().rewards["offset"].to_pylist() == [2]


class TestRewardsApart:
    def test_are_kept_once(self, store: JoinableStore, rows: Rows) -> None:
        store.append_apart(rows.apart(3))
        store.append_apart(rows.apart(4, after=1))
        store.append_apart(rows.apart(1, "other", after=1))
        found = store.query('SELECT producer, "offset" FROM rewards_apart ORDER BY 1, 2').to_pylist()
        expected = [("bus-1", 1), ("bus-1", 2), ("bus-1", 3), ("bus-1", 4), ("bus-1", 5), ("other", 2)]
        assert [(row["producer"], row["offset"]) for row in found] == expected


class TestTheJoinersLock:
    def test_is_held_by_one_at_a_time(self, backend: Backend) -> None:
        inside, most = 0, 0

        def join() -> None:
            nonlocal inside, most
            store = cast(JoinableStore, backend.open_store())
            for _ in range(20):
                with store.joiner_lock():
                    inside += 1
                    most = max(most, inside)
                    inside -= 1

        threads = [threading.Thread(target=join) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 1
