"""What every event store promises."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rl_core.backends.base import EventStore
from rl_core.errors import SchemaError, StoreError
from rl_core.schema import DECISION_SCHEMA, INTERACTION_SCHEMA

if TYPE_CHECKING:
    from tests.contract.conftest import Backend, Rows


def count(store: EventStore, table: str) -> int:
    return int(store.query(f"SELECT count(*) AS n FROM {table}")["n"][0].as_py())  # noqa: S608


class TestAnEmptyStore:
    def test_answers_every_question(self, store: EventStore) -> None:
        assert store.head() == store.last_offset("decisions", "bus-1") == 0
        assert store.interactions((0, 0)).num_rows == 0
        assert store.since("rewards", {}).num_rows == store.closed(["a"]).num_rows == 0
        assert [count(store, t) for t in ("decisions", "rewards", "interactions", "rewards_apart")] == [0, 0, 0, 0]


class TestAppend:
    def test_every_value_comes_back_as_it_went_in(self, store: EventStore, rows: Rows) -> None:
        sent = rows.decisions(9)
        assert store.append("decisions", sent) == 9
        found = store.since("decisions", {})
        assert found.schema.equals(DECISION_SCHEMA)
        assert found.equals(sent)

    def test_what_is_already_in_is_dropped(self, store: EventStore, rows: Rows) -> None:
        store.append("rewards", rows.rewards(5))
        assert store.append("rewards", rows.rewards(5)) == 0
        assert store.append("rewards", rows.rewards(5, after=3)) == 3
        assert store.since("rewards", {})["offset"].to_pylist() == list(range(1, 9))
        assert store.last_offset("rewards", "bus-1") == 8

    def test_a_gap_is_refused_and_named(self, store: EventStore, rows: Rows) -> None:
        store.append("decisions", rows.decisions(2))
        with pytest.raises(StoreError, match=r"decisions of 'bus-1': offset 2 is followed by 5; append 3\.\.4 first"):
            store.append("decisions", rows.decisions(2, after=4))
        with pytest.raises(StoreError, match="offsets must ascend by one"):
            store.append("decisions", pa.concat_tables([rows.decisions(1, after=2), rows.decisions(1, after=4)]))
        assert store.last_offset("decisions", "bus-1") == 2

    def test_producers_and_tables_count_apart(self, store: EventStore, rows: Rows) -> None:
        store.append("decisions", rows.decisions(3, "bus-1"))
        store.append("decisions", rows.decisions(2, "generator-1"))
        store.append("rewards", rows.rewards(1, "bus-1"))
        offsets = [store.last_offset("decisions", p) for p in ("bus-1", "generator-1", "other")]
        assert (offsets, store.last_offset("rewards", "bus-1")) == ([3, 2, 0], 1)

    def test_rows_of_two_producers_are_refused(self, store: EventStore, rows: Rows) -> None:
        with pytest.raises(SchemaError, match=r"rows of 2 producers \(a, b\); append one at a time"):
            store.append("rewards", pa.concat_tables([rows.rewards(1, "a"), rows.rewards(1, "b")]))

    def test_a_foreign_schema_is_refused_by_column(self, store: EventStore, rows: Rows) -> None:
        good = rows.rewards(2)
        at = good.column_names.index("reward")
        with pytest.raises(SchemaError, match="lack reward and bring nothing"):
            store.append("rewards", good.drop_columns(["reward"]))
        with pytest.raises(SchemaError, match="column 'reward' is string; the schema says double"):
            store.append("rewards", good.set_column(at, "reward", pa.array(["4", "5"])))
        with pytest.raises(SchemaError, match="column 'reward' holds 1 nulls; it must not"):
            store.append("rewards", good.set_column(at, "reward", pa.array([4.0, None])))

    def test_nullable_columns_may_be_left_out(self, store: EventStore, rows: Rows) -> None:
        store.append("decisions", rows.decisions(2).drop_columns(["policy_info", "rollout_stage"]))
        assert store.since("decisions", {})["policy_info"].to_pylist() == [None, None]

    def test_of_racing_writers_every_row_is_kept_once(self, backend: Backend, rows: Rows) -> None:
        def race() -> None:
            store = backend.open_store()
            for offset in range(0, 20, 2):
                store.append("rewards", rows.rewards(2, after=offset))

        threads = [threading.Thread(target=race) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert backend.open_store().since("rewards", {})["offset"].to_pylist() == list(range(1, 21))


class TestSince:
    def test_gives_what_lies_beyond_and_producers_not_named(self, store: EventStore, rows: Rows) -> None:
        for producer, number in (("a", 3), ("b's", 2), ("c", 2)):
            store.append("rewards", rows.rewards(number, producer))
        found = store.since("rewards", {"a": 2, "b's": 2})
        assert list(zip(found["producer"].to_pylist(), found["offset"].to_pylist(), strict=True)) == [
            ("a", 3),
            ("c", 1),
            ("c", 2),
        ]


class TestInteractions:
    def test_every_value_comes_back_as_it_went_in(self, store: EventStore, rows: Rows) -> None:
        store.append_interactions(rows.interactions(5))
        found = store.interactions((0, 5))
        assert found.schema.equals(INTERACTION_SCHEMA)
        assert found.equals(rows.interactions(5))

    def test_windows_partition_the_rows(self, store: EventStore, rows: Rows) -> None:
        store.append_interactions(rows.interactions(4))
        store.append_interactions(rows.interactions(6, after=4))
        windows = [(0, 3), (3, 3), (3, 7), (7, 10)]
        parts = [store.interactions(window, columns=["seq"])["seq"].to_pylist() for window in windows]
        assert parts == [[1, 2, 3], [], [4, 5, 6, 7], [8, 9, 10]]

    def test_columns_come_in_the_order_asked_for(self, store: EventStore, rows: Rows) -> None:
        store.append_interactions(rows.interactions(2))
        assert store.interactions((0, 2), columns=["reward", "action"]).column_names == ["reward", "action"]
        with pytest.raises(StoreError, match="no column 'rewards'"):
            store.interactions((0, 2), columns=["rewards"])

    def test_head_is_the_last_seq_in_every_process(self, backend: Backend, rows: Rows) -> None:
        one, other = backend.open_store(), backend.open_store()
        assert other.head() == 0
        one.append_interactions(rows.interactions(3))
        one.append_interactions(rows.interactions(2, after=3))
        assert one.head() == other.head() == backend.open_store().head() == 5

    @pytest.mark.parametrize("after", [0, 2, 4], ids=["again", "overlapping", "beyond a gap"])
    def test_a_seq_that_does_not_continue_head_is_refused(self, store: EventStore, rows: Rows, after: int) -> None:
        store.append_interactions(rows.interactions(3))
        with pytest.raises(StoreError, match=rf"interactions end at seq 3; got seq {after + 1}\.\."):
            store.append_interactions(rows.interactions(3, after=after))
        assert (store.head(), count(store, "interactions")) == (3, 3)

    def test_a_hole_inside_is_refused_whole(self, store: EventStore, rows: Rows) -> None:
        with pytest.raises(StoreError, match="interactions end at seq 0"):
            store.append_interactions(rows.interactions(4).filter(pc.field("seq") != 3))
        assert count(store, "interactions") == 0

    @pytest.mark.parametrize(
        ("window", "says"), [((0, 4), "reaches past head 3"), ((-1, 2), "is none"), ((3, 2), "is none")]
    )
    def test_a_window_that_is_not_there_is_refused(
        self, store: EventStore, rows: Rows, window: tuple[int, int], says: str
    ) -> None:
        store.append_interactions(rows.interactions(3))
        with pytest.raises(StoreError, match=says):
            store.interactions(window)

    def test_closed_finds_decisions_by_id(self, store: EventStore, rows: Rows) -> None:
        store.append_interactions(rows.interactions(4))
        ids = rows.interactions(4)["event_id"].to_pylist()
        found = store.closed([ids[2], ids[0], "unknown"])
        assert found.column_names == ["event_id", "decided_at", "closed_by"]
        assert set(found["event_id"].to_pylist()) == {ids[0], ids[2]}
        assert store.closed([]).num_rows == 0


class TestPending:
    def test_is_what_is_neither_joined_nor_set_apart(self, store: EventStore, rows: Rows) -> None:
        made, joined = rows.decisions(9), rows.interactions(4)
        store.append("decisions", made)
        store.append("rewards", rows.rewards(5))
        store.append_interactions(joined)
        store.append_apart(rows.apart(1, after=2))
        pending = store.pending()
        assert pending.decisions.equals(made.slice(4).filter(made.slice(4)["served"]))
        assert (pending.decision_offsets, pending.reward_offsets) == ({"bus-1": 9}, {"bus-1": 5})
        # 1 closed an interaction that says so, 3 is set apart; the interactions of even numbers name no reward
        assert pending.rewards["offset"].to_pylist() == [2, 4, 5]

    def test_spares_one_reward_for_each_interaction_it_closed(self, store: EventStore, rows: Rows) -> None:
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
    def test_are_kept_once(self, store: EventStore, rows: Rows) -> None:
        store.append_apart(rows.apart(3))
        store.append_apart(rows.apart(4, after=1))
        store.append_apart(rows.apart(1, "other", after=1))
        found = store.query('SELECT producer, "offset" FROM rewards_apart ORDER BY 1, 2').to_pylist()
        expected = [("bus-1", 1), ("bus-1", 2), ("bus-1", 3), ("bus-1", 4), ("bus-1", 5), ("other", 2)]
        assert [(row["producer"], row["offset"]) for row in found] == expected


class TestQuery:
    def test_joins_tables_by_name(self, store: EventStore, rows: Rows) -> None:
        store.append("decisions", rows.decisions(6))
        store.append_interactions(rows.interactions(4))
        sql = "SELECT d.event_id FROM decisions d LEFT JOIN interactions i USING (event_id) WHERE i.event_id IS NULL"
        assert set(store.query(sql)["event_id"].to_pylist()) == set(rows.decisions(2, after=4)["event_id"].to_pylist())

    def test_times_are_utc(self, store: EventStore, rows: Rows) -> None:
        store.append("decisions", rows.decisions(1))
        assert store.query("SELECT decided_at FROM decisions").schema.field(0).type == pa.timestamp("us", tz="UTC")

    @pytest.mark.parametrize("sql", ["SELECT nothing FROM decisions", "SELEC 1", "COPY (SELECT 1) TO 'file.csv'"])
    def test_what_can_not_be_answered_is_an_error_with_the_query(self, store: EventStore, sql: str) -> None:
        with pytest.raises(StoreError, match=sql[:10].replace("(", r"\(")):
            store.query(sql)


class TestTheJoinersLock:
    def test_is_held_by_one_at_a_time(self, backend: Backend) -> None:
        inside, most = 0, 0

        def join() -> None:
            nonlocal inside, most
            store = backend.open_store()
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
