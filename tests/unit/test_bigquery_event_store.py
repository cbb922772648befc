"""BigQuery's event store beyond the contract: its schema, its partitions, what it scans, how it fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rl_core.backends.gcp.store import rows as convert
from rl_core.backends.gcp.store import tables
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.gcp.store.joiner import SqlJoiner
from rl_core.config import Bandit, Settings
from rl_core.errors import StoreError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.schema import DECISION, DECISION_SCHEMA, TABLES, bigquery_schema
from stand_ins.cloud import Cloud
from stand_ins.faults import Fault
from tests.log_rows import BUS, at, decision, decisions, reward, rewards


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path) as cloud:
        yield cloud


def connect(cloud: Cloud, bandit: Bandit, **google: str) -> GoogleClients:
    changed = bandit.model_copy(update={"google": bandit.google.model_copy(update=google) if bandit.google else None})
    return GoogleClients(changed, Settings(google_endpoint=cloud.rest_url))


@pytest.fixture
def clients(cloud: Cloud, cloud_movielens: Bandit) -> Iterator[GoogleClients]:
    clients = connect(cloud, cloud_movielens)
    yield clients
    clients.close()


@pytest.fixture
def store(clients: GoogleClients) -> BigQueryEventStore:
    tables.ensure_tables(clients)
    return BigQueryEventStore(clients)


class TestSchema:
    @pytest.mark.parametrize("table", sorted(TABLES))
    def test_has_every_column_of_the_log_in_its_order(self, table: str) -> None:
        fields = bigquery_schema(TABLES[table])
        assert [field["name"] for field in fields] == [column.name for column in TABLES[table]]
        required = {field["name"] for field in fields if field["mode"] == "REQUIRED"}
        assert required == {c.name for c in TABLES[table] if not c.nullable and not c.type.endswith("[]")}

    def test_every_value_comes_back_as_it_went_in(self, store: BigQueryEventStore) -> None:
        made = [decision(f"e{n}", n, n) for n in range(1, 5)]
        made[0] |= {"observation": [], "eligible_actions": [3, 0], "policy_info": []}
        made[1] |= {"observation": [0.1, -0.0, 1e-30, 3.4e38], "policy_info": [("b", ""), ("a", 'é"\n')]}
        sent = decisions(*made)
        store.append("decisions", sent.slice(0, 2))
        store.stream("decisions", sent.slice(2))
        found = store.query("SELECT * FROM decisions ORDER BY `offset`")
        assert convert.read(found, DECISION_SCHEMA).equals(sent)


class TestTables:
    def test_are_made_once_partitioned_and_labelled(self, clients: GoogleClients) -> None:
        assert tables.missing_tables(clients) == ["test-project.movielens_v1", *map(clients.names.table, tables.KINDS)]
        assert tables.ensure_tables(clients) == ["test-project.movielens_v1", *map(clients.names.table, tables.KINDS)]
        assert (tables.ensure_tables(clients), tables.missing_tables(clients)) == ([], [])
        found = clients.bigquery.get_table(clients.names.table("interactions"))
        assert (found.range_partitioning.field, found.labels) == ("seq", {"banditloop": "movielens-v1"})
        assert clients.bigquery.get_table(clients.names.table("decisions")).time_partitioning.field == "received_at"
        assert BigQueryEventStore(clients).head() == 0

    def test_hold_one_row_of_the_joiner_whoever_makes_them_at_once(self, clients: GoogleClients) -> None:
        tables.ensure_tables(clients)
        clients.bigquery.query("DELETE FROM movielens_v1.joiner WHERE TRUE").result()
        begin = threading.Barrier(4)

        def make(_: int) -> None:
            begin.wait()
            tables.ensure_tables(clients)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(make, range(4)))
        assert BigQueryEventStore(clients).joiner_row().revision == 0

    def test_get_the_columns_that_they_lack(self, clients: GoogleClients) -> None:
        from google.cloud import bigquery

        clients.bigquery.create_dataset(_dataset(clients))
        older = [f for f in bigquery_schema(DECISION) if f["name"] != "rollout_stage"]
        schema = [bigquery.SchemaField.from_api_repr(field) for field in older]
        clients.bigquery.create_table(bigquery.Table(clients.names.table("decisions"), schema=schema))
        tables.ensure_tables(clients)
        found = clients.bigquery.get_table(clients.names.table("decisions"))
        assert {field.name for field in found.schema} == {column.name for column in DECISION}

    def test_that_are_older_than_a_column_are_joined_with_what_comes_later(
        self, clients: GoogleClients, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        added = {"deferred", "subject", "activation"}
        with monkeypatch.context() as older:
            older.delitem(tables.KINDS, "activations")
            for name, kind in tables.KINDS.items():
                columns = tuple(column for column in kind.columns if column.name not in added)
                older.setitem(tables.KINDS, name, replace(kind, columns=columns))
            tables.ensure_tables(clients)
        store = BigQueryEventStore(clients)
        store.stream("decisions", decisions(decision("a", 0)))  # nulls are left out: these are rows of an older writer
        store.stream("rewards", rewards(reward("b", 1)))
        tables.ensure_tables(clients)
        store.stream("decisions", decisions(decision("b", 0, 2, deferred=True), decision("c", 0, 3, deferred=True)))
        SqlJoiner(clients.bandit, store).run(at(9999))
        found = store.interactions((0, 3), ["event_id", "closed_by", "deferred"]).to_pylist()
        assert [tuple(row.values()) for row in found] == [
            ("a", "timeout", None),
            ("b", "reward", True),
            ("c", "unactivated", True),
        ]

    def test_in_another_location_are_an_error_with_the_setting(self, cloud: Cloud, clients: GoogleClients) -> None:
        tables.ensure_tables(clients)
        elsewhere = connect(cloud, clients.bandit, location="EU")
        with pytest.raises(StoreError, match=r"is in europe-west1; set google\.location to it"):
            tables.missing_tables(elsewhere)
        with pytest.raises(StoreError, match=r"not found .*run the DAG …_provision"):
            BigQueryEventStore(elsewhere).last_offset("decisions", BUS)
        elsewhere.close()

    def test_are_dropped_with_what_they_hold_if_they_are_ours(self, clients: GoogleClients) -> None:
        tables.ensure_tables(clients)
        assert tables.drop(clients)[-1] == "test-project.movielens_v1"
        assert tables.drop(clients) == []
        dataset = _dataset(clients)
        dataset.labels = {}
        clients.bigquery.create_dataset(dataset)
        with pytest.raises(StoreError, match="it is not ours to delete"):
            tables.drop(clients)


def _dataset(clients: GoogleClients) -> Any:
    from google.cloud import bigquery

    dataset = bigquery.Dataset(f"{clients.names.project}.{clients.names.dataset}")
    dataset.location, dataset.labels = clients.names.location, clients.names.labels
    return dataset


class TestWhatItScans:
    def test_head_runs_no_job(self, cloud: Cloud, store: BigQueryEventStore) -> None:
        before = len(cloud.bigquery.jobs)
        assert store.head() == 0
        assert len(cloud.bigquery.jobs) == before

    def test_a_window_reads_its_partitions_and_the_columns_asked_for(
        self, cloud: Cloud, store: BigQueryEventStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = cloud.bigquery._warehouse.table("movielens_v1", "interactions")
        table["rangePartitioning"]["range"]["interval"] = "10"
        store.append_interactions(_interactions(40))
        read = {}
        for window in ((9, 12), (0, 40)):
            store.interactions(window, columns=["reward"])
            read[window] = int(cloud.bigquery.jobs[-1]["statistics"]["totalBytesProcessed"])
        assert read == {(9, 12): 10 * 16, (0, 40): 40 * 16}


def _interactions(count: int) -> pa.Table:
    made = decisions(*(decision(f"e{n}", n, n) for n in range(1, count + 1)))
    times = pa.nulls(count, pa.timestamp("us", tz="UTC"))
    extra = {
        "reward": pa.array([1.0] * count),
        "reward_observed_at": times,
        "reward_received_at": times,
        "closed_by": pa.array(["timeout"] * count),
        "closed_at": pa.array([at(99)] * count, pa.timestamp("us", tz="UTC")),
    }
    columns = {
        "seq": pa.array(range(1, count + 1), pa.int64()),
        **dict(zip(made.column_names, made.columns, strict=True)),
    }
    return pa.table(columns | extra)


class TestFailures:
    def test_a_load_whose_answer_is_lost_is_loaded_once(self, cloud: Cloud, store: BigQueryEventStore) -> None:
        cloud.faults.add(Fault("bigquery.jobs.insert", "503", after=True))
        assert store.append("rewards", rewards(reward("a", 1, 1), reward("b", 1, 2))) == 2
        assert store.query("SELECT COUNT(*) AS n FROM rewards")["n"].to_pylist() == [2]

    @pytest.mark.parametrize(
        "lost", [Fault("bigquery.tabledata.insertAll", "503"), Fault("bigquery.tabledata.insertAll", drop=True)]
    )
    def test_a_streamed_row_whose_answer_is_lost_counts_once(
        self, cloud: Cloud, store: BigQueryEventStore, lost: Fault
    ) -> None:
        cloud.faults.add(Fault(lost.method, lost.code, drop=lost.drop, after=True))
        store.stream("rewards", rewards(reward("a", 1, 1)))
        assert store.last_offset("rewards", BUS) == 1

    def test_a_streamed_row_sent_twice_counts_once_for_whoever_reads(
        self, cloud: Cloud, store: BigQueryEventStore
    ) -> None:
        store.stream("rewards", rewards(reward("a", 1, 1)))
        store.stream("rewards", rewards(reward("a", 1, 1), reward("b", 1, 3)))
        cloud.bigquery.drop_insert_ids()
        store.stream("rewards", rewards(reward("a", 1, 1)))
        assert store.last_offset("rewards", BUS) == 1
        store.stream("rewards", rewards(reward("c", 1, 2)))
        assert store.last_offset("rewards", BUS) == 3

    @pytest.mark.parametrize(
        ("status", "says"),
        [
            ("403", r"permission denied \(.*\); give the acting account roles/bigquery.dataViewer"),
            ("404", "not found .*the DAG …_provision"),
        ],
    )
    def test_are_one_line_naming_setting_or_role(
        self, cloud: Cloud, store: BigQueryEventStore, status: str, says: str
    ) -> None:
        cloud.faults.add(Fault("bigquery.tabledata.list", status))
        with pytest.raises(StoreError, match=says) as raised:
            store.head()
        assert "\n" not in str(raised.value)

    def test_another_project_is_refused_by_name(self, cloud: Cloud, cloud_movielens: Bandit) -> None:
        other = connect(cloud, cloud_movielens, project="other-project")
        with pytest.raises(StoreError, match=r"google.project=other-project"):
            BigQueryEventStore(other).head()
        other.close()

    def test_a_reserved_word_needs_its_quotes(self, store: BigQueryEventStore) -> None:
        assert store.query("SELECT h.at FROM heartbeats AS h WHERE `at` IS NULL").num_rows == 0
        with pytest.raises(StoreError, match="Unexpected keyword AT"):
            store.query("SELECT producer FROM heartbeats WHERE at IS NULL")

    def test_writing_through_query_is_refused(self, store: BigQueryEventStore) -> None:
        with pytest.raises(StoreError, match="not a query: 'DELETE FROM rewards WHERE TRUE'"):
            store.query("DELETE FROM rewards WHERE TRUE")
