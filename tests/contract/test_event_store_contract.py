"""What every event store promises. What only JoinableStore promises has a suite of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rl_core.backends.contracts.store import EventStore
from rl_core.errors import SchemaError, StoreError
from rl_core.schema import INTERACTION_SCHEMA

if TYPE_CHECKING:
    from tests.contract.conftest import Backend, Rows


BACKENDS = ("gcp", "local")


def count(store: EventStore, table: str) -> int:
    return int(store.query(f"SELECT count(*) AS n FROM {table}")["n"][0].as_py())  # noqa: S608


def logged(store: EventStore, columns: str, table: str) -> list[Any]:
    """The rows in the order of their first column."""
    found = store.query(f"SELECT {columns} FROM {table} ORDER BY 1").to_pylist()  # noqa: S608
    return [tuple(row.values()) for row in found]


def offsets(store: EventStore, table: str) -> list[int]:
    return sorted(store.query(f"SELECT * FROM {table}")["offset"].to_pylist())  # noqa: S608


class TestAnEmptyStore:
    def test_answers_every_question(self, store: EventStore) -> None:
        assert store.head() == store.last_offset("decisions", "bus-1") == 0
        assert store.interactions((0, 0)).num_rows == 0
        assert [count(store, t) for t in ("decisions", "rewards", "interactions", "rewards_apart")] == [0, 0, 0, 0]

    def test_tells_its_head_without_scanning_anything(self, store: EventStore) -> None:
        assert store.head() == store.bytes_scanned == 0


class TestAppend:
    def test_values_come_back_as_they_went_in(self, store: EventStore, rows: Rows) -> None:
        sent = rows.decisions(9)
        assert store.append("decisions", sent) == 9
        columns = "event_id, decided_at, seed_stream, action, propensity, served, observation"
        expected = sent.select(columns.split(", ")).to_pylist()
        assert logged(store, columns, "decisions") == [tuple(row.values()) for row in expected]

    def test_what_is_already_in_is_dropped(self, store: EventStore, rows: Rows) -> None:
        store.append("rewards", rows.rewards(5))
        assert store.append("rewards", rows.rewards(5)) == 0
        assert store.append("rewards", rows.rewards(5, after=3)) == 3
        assert offsets(store, "rewards") == list(range(1, 9))
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
        last = [store.last_offset("decisions", p) for p in ("bus-1", "generator-1", "other")]
        assert (last, store.last_offset("rewards", "bus-1")) == ([3, 2, 0], 1)

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
        assert logged(store, "policy_info, rollout_stage", "decisions") == [(None, None)] * 2

    def test_of_racing_writers_every_row_is_kept_once(self, backend: Backend, rows: Rows) -> None:
        backend.open_store()  # whole, before the first of them looks

        def race() -> None:
            store = backend.open_store()
            for offset in range(0, 20, 2):
                store.append("rewards", rows.rewards(2, after=offset))

        threads = [threading.Thread(target=race) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert offsets(backend.open_store(), "rewards") == list(range(1, 21))


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
        assert store.interactions((0, 2), columns=["reward", "action_id"]).column_names == ["reward", "action_id"]
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


class TestForget:
    """Rows 1, 3, 5 … of the fixture have subject `subject-000n`."""

    WHOSE = "subject-0003 é'\""

    @pytest.fixture
    def ids(self, store: EventStore, rows: Rows) -> list[str]:
        made = rows.decisions(6)
        store.append("decisions", made)
        store.append("rewards", rows.rewards(6))
        store.append_interactions(rows.interactions(5))
        ids: list[str] = made["event_id"].to_pylist()
        return ids

    def test_leaves_an_empty_row_under_the_seq_and_nothing_else(
        self, backend: Backend, store: EventStore, ids: list[str]
    ) -> None:
        found = store.forget([self.WHOSE], [ids[4]])
        assert (found.event_ids, found.seqs) == ((ids[2], ids[4]), (3, 5))
        assert {name: found.counts[name] for name in ("decisions", "rewards", "interactions")} == {
            "decisions": 2,
            "rewards": 2,
            "interactions": 2,
        }
        after = backend.open_store()
        left = after.interactions((0, 5))
        assert left["seq"].to_pylist() == [1, 2, 3, 4, 5]
        (third,) = left.slice(2, 1).to_pylist()
        assert (third["event_id"], third["served"], third["closed_by"]) == ("forgotten-3", False, "forgotten")
        assert (third["observation"], third["subject"], third["policy_info"], third["action_id"]) == (
            [],
            None,
            None,
            "",
        )
        assert left["event_id"].to_pylist()[::2] == [ids[0], "forgotten-3", "forgotten-5"]
        for table in ("decisions", "rewards"):
            events = after.query(f"SELECT event_id FROM {table} ORDER BY event_id")["event_id"].to_pylist()  # noqa: S608
            assert events == [ids[0], ids[1], ids[3], ids[5]]

    def test_moves_neither_head_nor_offsets(self, store: EventStore, rows: Rows, ids: list[str]) -> None:
        store.forget([], [ids[0]])
        assert store.head() == 5
        store.append_interactions(rows.interactions(1, after=5))
        assert store.head() == 6

    def test_again_or_of_nobody_changes_nothing(self, store: EventStore, ids: list[str]) -> None:
        store.forget([self.WHOSE], [])
        before = store.interactions((0, 5))
        again = store.forget([self.WHOSE, "nobody"], ["unheard"])
        assert (again.seqs, sum(again.counts.values())) == ((), 0)
        assert store.interactions((0, 5)).equals(before)

    def test_dry_run_only_tells(self, store: EventStore, ids: list[str]) -> None:
        found = store.forget([self.WHOSE], [], dry_run=True)
        assert (found.event_ids, found.seqs) == ((ids[2],), (3,))
        assert store.forget([self.WHOSE], [], dry_run=True) == found
