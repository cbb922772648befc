"""Forgetting and retention on BigQuery: what a joiner that runs beside it does, rows just streamed, partitions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from bandit_ops.runners.forgotten import forgotten_rows
from rl_core.backends.gcp.store import tables
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.gcp.store.joiner import SqlJoiner
from rl_core.config import Bandit, Join, Retention, Settings
from rl_core.errors import StoreError
from rl_core.google_cloud.clients import GoogleClients
from stand_ins.cloud import Cloud
from tests.log_rows import BUS, WAIT_S, at, decision, decisions, reward, rewards


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with Cloud(tmp_path) as cloud:
        yield cloud


@pytest.fixture
def bandit(cloud_movielens: Bandit) -> Bandit:
    return cloud_movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})


@pytest.fixture
def clients(cloud: Cloud, bandit: Bandit) -> Iterator[GoogleClients]:
    clients = GoogleClients(bandit, Settings(google_endpoint=cloud.rest_url))
    yield clients
    clients.close()


@pytest.fixture
def store(clients: GoogleClients) -> BigQueryEventStore:
    tables.ensure_tables(clients)
    return BigQueryEventStore(clients)


def events(store: BigQueryEventStore, table: str) -> list[str]:
    found: list[str] = store.query(f"SELECT event_id FROM {table} ORDER BY event_id")["event_id"].to_pylist()  # noqa: S608
    return found


class TestForgetting:
    def test_rows_just_streamed_can_not_be_changed_yet(self, cloud: Cloud, store: BigQueryEventStore) -> None:
        store.stream("decisions", decisions(decision("a", 0), decision("b", 0, 2, subject="Ada")))
        cloud.bigquery.buffer_streamed_rows(1800)
        with pytest.raises(StoreError, match=r"within the last 30 minutes .*nothing of them is forgotten yet"):
            store.forget(["Ada"], [])
        assert events(store, "decisions") == ["a", "b"]
        assert store.query("SELECT COUNT(*) AS n FROM rejected_events")["n"].to_pylist() == [0]
        cloud.bigquery.buffer_streamed_rows(0)
        store.forget(["Ada"], [])
        assert events(store, "decisions") == ["a"]

    def test_the_offsets_that_are_gone_hold_no_watermark(self, store: BigQueryEventStore, bandit: Bandit) -> None:
        now = at(5)
        store.stream("decisions", decisions(*(decision(f"e{n}", 0, n, subject="Ada") for n in (1, 2))))
        store.stream("decisions", decisions(decision("e3", 0, 3)))
        store.stream(
            "heartbeats",
            [{"producer": BUS, "decisions": 3, "rewards": 0, "at": now, "published_at": now, "stored_at": now}],
        )
        store.forget(["Ada"], [])
        (server,) = SqlJoiner(bandit, store).servers()
        assert (server.met_at, server.unmet_since, server.stored_decisions) == (now, None, 3)
        assert "Ada" not in str(store.query("SELECT * FROM rejected_events").to_pylist())

    def test_a_run_of_the_joiner_that_had_read_it_begins_again(self, store: BigQueryEventStore, bandit: Bandit) -> None:
        store.append("decisions", decisions(decision("a", 0), decision("b", 0, 2)))
        joiner = SqlJoiner(bandit, store)
        before = store.joiner_row().revision
        store.forget([], ["b"])
        assert store.joiner_row().revision == before + 1
        assert joiner.run(at(99)).interactions == 1

    def test_a_later_reward_is_of_an_unknown_event(self, store: BigQueryEventStore, bandit: Bandit) -> None:
        store.append("decisions", decisions(decision("a", 0)))
        joiner = SqlJoiner(bandit, store)
        joiner.run(at(WAIT_S + 1))
        store.forget([], ["a"])
        store.append("rewards", rewards(reward("a", WAIT_S + 2)))
        assert joiner.run(at(99)).apart == 1
        assert store.query("SELECT reason FROM rewards_apart")["reason"].to_pylist() == ["unknown"]

    def test_rejected_messages_lose_what_they_held(self, store: BigQueryEventStore) -> None:
        common = {"kind": "decision", "received_at": at(0), "producer": BUS, "reason": "no observation"}
        store.stream(
            "rejected_events",
            [
                common | {"offset": 1, "payload": '{"event_id": "a", "subject":"Ada"}'},
                common | {"offset": 2, "payload": '{"event_id": "b", "subject": "Adam"}'},
            ],
        )
        assert store.forget(["Ada"], []).counts["rejected_events"] == 1
        rows = store.query("SELECT payload FROM rejected_events ORDER BY `offset`")["payload"].to_pylist()
        assert rows == ["", '{"event_id": "b", "subject": "Adam"}']


def test_what_was_forgotten_is_counted_for_the_pipeline_cache(
    cloud: Cloud, store: BigQueryEventStore, bandit: Bandit
) -> None:
    settings = Settings(google_endpoint=cloud.rest_url)
    store.append("decisions", decisions(decision("a", 0), decision("b", 0, 2)))
    SqlJoiner(bandit, store).run(at(WAIT_S + 1))
    assert forgotten_rows(bandit, settings) == 0
    store.forget([], ["b"])
    assert forgotten_rows(bandit, settings) == 1


class TestRetention:
    def expiring(self, clients: GoogleClients) -> dict[str, timedelta | None]:
        found = {name: clients.bigquery.get_table(clients.names.table(name)).time_partitioning for name in tables.KINDS}
        return {
            name: timedelta(milliseconds=one.expiration_ms) if one.expiration_ms else None
            for name, one in found.items()
            if one is not None
        }

    @pytest.mark.parametrize("first", [None, 30.0])
    def test_is_set_by_provisioning_and_changed_by_it(self, cloud: Cloud, bandit: Bandit, first: float | None) -> None:
        raw = ("decisions", "rewards", "rewards_apart", "rejected_events")
        for days in (first, 90.0, None):
            kept = bandit.model_copy(update={"retention": Retention(raw_log_days=days)})
            clients = GoogleClients(kept, Settings(google_endpoint=cloud.rest_url))
            tables.ensure_tables(clients)
            found = self.expiring(clients)
            assert {found[name] for name in raw} == {None if days is None else timedelta(days=days)}
            assert (found["heartbeats"], found["decisions_staging"]) == (timedelta(days=7), timedelta(days=1))
            clients.close()
