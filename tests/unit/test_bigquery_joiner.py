"""BigQuery's joiner beyond the contract: the same as the rules on any stream, what it scans, how far events arrived."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_core.backends.contracts.store import EventStore
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.gcp.store.joiner import SqlJoiner
from rl_core.backends.gcp.store.tables import ensure_tables
from rl_core.backends.local.joining.rules import Closed, JoinRules
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join, Settings
from rl_core.errors import StoreError
from rl_core.google_cloud.clients import GoogleClients
from stand_ins.cloud import Cloud
from stand_ins.faults import Fault
from tests.join_model import History, histories, told
from tests.join_model import joined as model
from tests.log_rows import JOB, START, WAIT_S, activations, at, decision, decisions, reward, rewards

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with TemporaryDirectory() as folder, Cloud(Path(folder)) as cloud:
        yield cloud


@contextmanager
def opened(cloud: Cloud, bandit: Bandit) -> Iterator[tuple[Bandit, BigQueryEventStore]]:
    """A dataset of its own."""
    bandit = bandit.model_copy(update={"prefix": f"t{next(NUMBERS)}"})
    clients = GoogleClients(bandit, Settings(google_endpoint=cloud.rest_url))
    try:
        ensure_tables(clients)
        yield bandit, BigQueryEventStore(clients)
    finally:
        clients.close()


@pytest.fixture
def bandit(cloud_movielens: Bandit) -> Bandit:
    return cloud_movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})


@pytest.fixture
def store(cloud: Cloud, bandit: Bandit) -> Iterator[BigQueryEventStore]:
    cloud.faults.clear()
    with opened(cloud, bandit) as (_, store):
        yield store


class TestSameAsTheRules:
    """And, where no order of reading may matter, as the model of ten lines."""

    @given(histories(in_order=False, steps=3, events=12), st.booleans())
    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def test_on_any_order_delay_and_repetition(
        self, cloud: Cloud, bandit: Bandit, history: History, close_early: bool
    ) -> None:
        join = Join(reward_wait_s=WAIT_S, close_early=close_early)
        default = float(bandit.problem.reward_default)
        rules = JoinRules(join, default)
        closed: dict[str, Closed] = {}
        expected: list[dict[str, Any]] = []
        apart: set[tuple[str, int, str]] = set()
        with opened(cloud, bandit) as (named, store):
            joiner = SqlJoiner(named.model_copy(update={"join": join}), store)
            for step in history.steps:
                passed = None if step.watermark is None else at(step.watermark)
                made, earned = decisions(*step.decisions), rewards(*step.rewards)
                activated = activations(*step.rewards)
                for _ in range(1 + step.again):
                    cloud.bigquery.drop_insert_ids()
                    store.stream("decisions", made)
                    store.stream("rewards", earned)
                    store.stream("activations", activated)
                joined = rules.step(made, earned, closed, passed, START, activated)
                for row in joined.interactions.to_pylist():
                    decided, received = _micros(row["decided_at"]), _micros(row["received_at"])
                    closed[row["event_id"]] = Closed(decided, received, row["closed_by"])
                    expected.append(row)
                apart |= {(row["producer"], row["offset"], row["reason"]) for row in joined.apart.to_pylist()}
                run = joiner.run(passed)
                assert (run.head, run.open) == (len(expected), rules.open)
            found = store.interactions((0, store.head())).drop_columns(["seq", "closed_at"]).to_pylist()
            set_apart = store.query("SELECT producer, `offset`, reason FROM rewards_apart").to_pylist()
        assert found == [{name: row[name] for name in row if name != "closed_at"} for row in expected]
        assert len(set_apart) == len(apart)
        assert {tuple(row.values()) for row in set_apart} == apart
        if not close_early:
            assert (told(found), apart) == model(history.decisions, history.rewards, default)

    @pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 6))])
    def test_on_jobs_that_reward_some_end_or_are_cut_off(
        self, cloud: Cloud, bandit: Bandit, tmp_path: Path, seed: int
    ) -> None:
        chance = random.Random(seed)
        local = DeltaEventStore(tmp_path / "store")
        with opened(cloud, bandit) as (named, store):
            both: list[EventStore] = [store, local]
            joiners = [one.joiner(named.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})) for one in both]
            offsets: Counter[tuple[str, str]] = Counter()

            def numbered(table: Literal["decisions", "rewards"], row: dict[str, Any]) -> dict[str, Any]:
                offsets[table, row["producer"]] += 1
                return row | {"offset": offsets[table, row["producer"]]}

            for second in range(0, 60, 6):
                job = chance.choice(["job-1", "job-2", "job-3"])
                events = [f"{job}-{second}-{k}" for k in range(4)]
                made = [numbered("decisions", decision(event, second, 0, job)) for event in events]
                rewarded = chance.sample(events, chance.randint(0, 2)) if job != "job-3" else []
                earned = [numbered("rewards", reward(event, second + 1, 0, producer=job)) for event in rewarded]
                watermark = None if chance.random() < 0.3 else at(second - chance.randint(0, 20))
                ends = chance.random() < 0.2
                for one in both:
                    if earned:
                        one.append("rewards", rewards(*earned))
                    one.append("decisions", decisions(*made))
                    if ends:
                        one.complete(job)
                runs = [joiner.run(watermark) for joiner in joiners]
                assert runs[0] == runs[1]
                if chance.random() < 0.3:
                    joiners[1] = local.joiner(named.model_copy(update={"join": Join(reward_wait_s=WAIT_S)}))
                assert store.open_decisions() == local.open_decisions()
            found = [one.interactions((0, one.head())).drop_columns(["closed_at"]) for one in both]
        assert found[0].equals(found[1])
        assert {"reward", "timeout"} <= set(found[0]["closed_by"].to_pylist())


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=moment.tzinfo)) // timedelta(microseconds=1)


def beat(producer: str, second: float, made: int = 0, earned: int = 0) -> dict[str, Any]:
    return {"producer": producer, "decisions": made, "rewards": earned, "at": at(second)}


class TestWatermark:
    def test_follows_the_slowest_server_and_our_own_heartbeat(self, bandit: Bandit, store: BigQueryEventStore) -> None:
        joiner = SqlJoiner(bandit, store)
        store.stream("heartbeats", [beat("bus-1", 50), beat("bus-2", 40)])
        assert joiner.watermark() is None
        store.stream("heartbeats", [beat("bus-joiner", 60)])
        assert joiner.watermark() == at(40)
        store.stream("heartbeats", [beat("bus-1", 70), beat("bus-2", 70)])
        assert joiner.watermark() == at(60)

    def test_waits_for_what_a_heartbeat_tells_and_names_who_holds_it(
        self, bandit: Bandit, store: BigQueryEventStore
    ) -> None:
        joiner = SqlJoiner(bandit, store)
        store.stream("heartbeats", [beat("bus-1", 0), beat("bus-1", 20, 3, 1), beat("bus-joiner", 90)])
        store.stream("decisions", decisions(decision("a", 1, 1), decision("c", 1, 3)))
        store.stream("rewards", rewards(reward("a", 2, 1)))
        assert joiner.watermark() == at(0)
        (gap,) = joiner.gaps()
        assert str(gap).startswith(
            "bus-1 had 3 decisions and 1 rewards acknowledged, of which all up to 1 and 1 are stored"
        )
        lost = {
            "kind": "decision",
            "producer": "bus-1",
            "offset": 2,
            "received_at": at(1),
            "payload": "?",
            "reason": "?",
        }
        store.stream("rejected_events", [lost])
        assert (joiner.watermark(), joiner.gaps()) == (at(20), [])

    def test_a_server_that_fell_silent_no_longer_holds_it_unless_something_is_missing(
        self, bandit: Bandit, store: BigQueryEventStore
    ) -> None:
        joiner = SqlJoiner(bandit, store)
        store.stream("heartbeats", [beat("bus-1", 10), beat("bus-2", 10), beat("bus-joiner", 905)])
        assert joiner.watermark() == at(10)
        store.stream("heartbeats", [beat("bus-2", 1500), beat("bus-2", 2000), beat("bus-joiner", 2001)])
        assert joiner.watermark() == at(2000)
        store.stream("heartbeats", [beat("bus-1", 11, 1)])
        assert joiner.watermark() == at(10)

    def test_stands_while_the_logger_makes_up_for_an_hour_in_whatever_order(
        self, bandit: Bandit, store: BigQueryEventStore
    ) -> None:
        joiner, hour = SqlJoiner(bandit, store), 3600
        store.stream("heartbeats", [beat("bus-1", 10), beat("bus-joiner", 15)])
        assert joiner.watermark() == at(10)
        store.stream("heartbeats", [beat("bus-joiner", hour + 15)])  # first of all, before what bus-1 sent
        assert joiner.watermark() == at(10)
        late = [beat("bus-joiner", 120 * n + 15) | {"stored_at": at(hour + 16)} for n in range(1, 30)]
        store.stream("heartbeats", late)
        assert joiner.watermark() == at(10)
        store.stream("heartbeats", [beat("bus-1", n) | {"stored_at": at(hour + 20)} for n in range(15, hour, 300)])
        store.stream("heartbeats", [beat("bus-1", hour + 20), beat("bus-joiner", hour + 21)])
        assert joiner.watermark() == at(15)
        store.stream("heartbeats", [beat("bus-1", hour + 920), beat("bus-joiner", hour + 921)])
        assert joiner.watermark() == at(hour + 920)

    def test_moves_on_when_nobody_serves_and_joins_are_rare(self, bandit: Bandit, store: BigQueryEventStore) -> None:
        joiner, hour = SqlJoiner(bandit, store), 3600
        store.stream("heartbeats", [beat("bus-1", 10) | {"ended": True}, beat("bus-joiner", 15)])
        store.stream("heartbeats", [beat("bus-joiner", hour)])
        assert joiner.watermark() == at(15)
        store.stream("heartbeats", [beat("bus-joiner", 2 * hour)])
        assert joiner.watermark() == at(hour)

    def test_does_not_go_by_a_clock_that_is_wrong(self, bandit: Bandit, store: BigQueryEventStore) -> None:
        joiner = SqlJoiner(bandit, store)
        store.stream("heartbeats", [beat("bus-joiner", 86400) | {"published_at": at(60)}])
        assert joiner.watermark() == at(60)
        store.stream("heartbeats", [beat("bus-slow", -3000) | {"published_at": at(59)}])
        assert joiner.watermark() == at(-3000)

    def test_counts_only_what_came_after_the_last_run(self, bandit: Bandit, store: BigQueryEventStore) -> None:
        joiner = SqlJoiner(bandit, store)
        store.stream("decisions", decisions(*(decision(f"e{n}", n, n) for n in range(1, 4))))
        store.stream("heartbeats", [beat("bus-1", 5, 3), beat("bus-joiner", 6)])
        joiner.run(joiner.watermark())
        day = 2 * 86400
        store.stream("decisions", decisions(decision("e5", day, 5), decision("e4", day, 4)))
        store.stream("heartbeats", [beat("bus-1", day + 1, 5), beat("bus-joiner", day + 2)])
        (server,) = (server for server in joiner.servers() if server.producer == "bus-1")
        assert (server.met_at, server.stored_decisions) == (at(day + 1), 5)


class TestARun:
    def test_scans_only_what_can_still_be_open(self, cloud: Cloud, bandit: Bandit, store: BigQueryEventStore) -> None:
        joiner = SqlJoiner(bandit, store)
        scanned = []
        for day in range(5):
            rows = [decision(f"{day}-{n:04d}", day * 86400 + n, day * 400 + n) for n in range(1, 401)]
            store.append("decisions", decisions(*rows))
            joiner.run(at(day * 86400 + 1500))
            scanned.append(_bytes(cloud))
            joiner.run(at(day * 86400 + 1500))
        grows = [after - before for before, after in itertools.pairwise(scanned[1:])]
        assert max(grows) < scanned[0] / 3  # the ids of closed decisions, which clustering spares and the figure counts

    def test_that_overlaps_another_begins_again(self, cloud: Cloud, bandit: Bandit, store: BigQueryEventStore) -> None:
        store.append("decisions", decisions(decision("a", 0)))
        cloud.faults.add(Fault("bigquery.tabledata.list", times=0))
        stale = store.joiner_row()
        SqlJoiner(bandit, store).run(at(1))
        late = SqlJoiner(bandit, _Stale(store, stale))
        assert late.run(at(20)).head == 1

    @pytest.mark.parametrize("fault", [Fault("bigquery.jobs.insert", "503"), Fault("bigquery.jobs.insert", drop=True)])
    @pytest.mark.parametrize("after", [False, True])
    def test_whose_answer_is_lost_joins_once(
        self, cloud: Cloud, bandit: Bandit, store: BigQueryEventStore, fault: Fault, after: bool
    ) -> None:
        store.append("decisions", decisions(decision("a", 0)))
        cloud.faults.add(Fault(fault.method, fault.code, drop=fault.drop, after=after))
        assert SqlJoiner(bandit, store).run(at(20)).head == 1
        assert store.interactions((0, 1), ["event_id"])["event_id"].to_pylist() == ["a"]

    @pytest.mark.parametrize(
        "said",
        [
            "Query error: Transaction is aborted due to concurrent update against table p:d.joiner. Transaction ID: 1",
            "Could not serialize access to table p:d.joiner due to concurrent update",
        ],
    )
    def test_that_was_aborted_begins_again(
        self, cloud: Cloud, bandit: Bandit, store: BigQueryEventStore, said: str
    ) -> None:
        cloud.faults.add(Fault("bigquery.jobs.insert", "400", message=said))
        assert SqlJoiner(bandit, store).run(None).head == 0

    def test_that_may_not_write_says_the_role(self, cloud: Cloud, bandit: Bandit, store: BigQueryEventStore) -> None:
        cloud.faults.add(Fault("bigquery.jobs.insert", "403", message="Access Denied"))
        with pytest.raises(StoreError, match=r"join: permission denied .*roles/bigquery.dataEditor .* google.project="):
            SqlJoiner(bandit, store).run(None)

    def test_joins_what_arrives_when_its_server_was_long_taken_as_gone(
        self, bandit: Bandit, store: BigQueryEventStore
    ) -> None:
        joiner = SqlJoiner(bandit, store)
        joiner.run(at(5000))
        store.stream("decisions", decisions(decision("a", 10)))
        assert joiner.run(at(5001)).interactions == 1

    def test_that_is_under_way_begins_again_when_the_logger_stores_what_is_long_past(
        self, bandit: Bandit, store: BigQueryEventStore
    ) -> None:
        joiner = SqlJoiner(bandit, store)
        store.append("decisions", decisions(decision("waits", 0, 1, JOB)))
        joiner.run(at(5000))
        joiner.run(at(5000))
        under_way = store.joiner_row()
        assert under_way.open_from == at(0)
        store.stream("decisions", decisions(decision("past", 10)))
        changed = store.joiner_row().revision
        assert changed > under_way.revision
        store.stream("decisions", decisions(decision("past-too", 11, 2)))
        assert store.joiner_row().revision == changed  # once is enough
        joiner = SqlJoiner(bandit, _Stale(store, under_way))
        assert joiner.run(at(5001)).interactions == 2

    def test_joins_what_a_server_accepted_before_anybody_heard_of_it(
        self, bandit: Bandit, store: BigQueryEventStore
    ) -> None:
        joiner = SqlJoiner(bandit, store)
        now = (datetime.now(UTC) - START).total_seconds()
        store.stream("heartbeats", [beat("bus-joiner", now)])
        joiner.run(joiner.watermark())
        store.stream("heartbeats", [beat("bus-new", now - 1)])  # overtaken by ours
        store.stream("decisions", decisions(decision("a", now - 1, 1, "bus-new")))
        assert joiner.run(joiner.watermark()).open == 1


class _Stale:
    """A store whose first look at the joiner's row is an old one."""

    def __init__(self, store: BigQueryEventStore, row: Any) -> None:
        self.queries = store.queries
        self._rows = itertools.chain([row], iter(store.joiner_row, None))

    def joiner_row(self) -> Any:
        return next(self._rows)


def _bytes(cloud: Cloud) -> int:
    job = next(job for job in reversed(cloud.bigquery.jobs) if "-join-" in job["id"])
    return int(job["statistics"]["totalBytesProcessed"])
