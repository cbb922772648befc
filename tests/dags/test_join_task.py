"""What the task of the join DAG does with a log in BigQuery, and what it says of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from rl_core.backends.gcp.backend import GoogleBackend
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.gcp.store.tables import ensure_tables
from rl_core.config import Bandit, Join
from stand_ins.cloud import Cloud
from stand_ins.faults import Fault
from tests.dags.test_gate_and_lease import context, vital_signs_of
from tests.log_rows import START, at, decision, decisions, reward, rewards

if TYPE_CHECKING:
    from bandit_ops.join import JoinLog

pytestmark = pytest.mark.usefixtures("airflow_home")


@pytest.fixture
def join(cloud: Cloud, cloud_movielens: Bandit) -> Iterator[JoinLog]:
    """Of a bandit whose resources are there, and whose decisions wait a minute for their reward."""
    from bandit_ops.join import JoinLog

    task = JoinLog(task_id="join", bandit=cloud_movielens.model_copy(update={"join": Join(reward_wait_s=60)}))
    backend = task.open_backend()
    assert isinstance(backend, GoogleBackend)
    clients = backend.clients
    clients.bucket.create(location=clients.names.location)
    ensure_tables(clients)
    clients.publisher.create_topic(name=clients.names.events_topic)
    yield task
    clients.close()


@pytest.fixture
def serve(join: JoinLog) -> Callable[[int], None]:
    """A server confirmed two decisions and a reward, ten minutes ago; so many of the decisions arrived in the log."""
    now = (datetime.now(UTC) - START).total_seconds()

    def beat(producer: str, ago: float, made: int = 0, earned: int = 0) -> dict[str, Any]:
        return {"producer": producer, "decisions": made, "rewards": earned, "at": at(now - ago)}

    def arrive(count: int) -> None:
        store = join.open_store()
        assert isinstance(store, BigQueryEventStore)
        store.stream("decisions", decisions(*[decision(f"e{n}", now - 600, n) for n in (1, 2)][:count]))
        store.stream("rewards", rewards(reward("e1", now - 599)))
        store.stream("heartbeats", [beat("bus-1", 660), beat("bus-1", 300, 2, 1), beat("bus-joiner", 180)])

    return arrive


def test_joins_and_logs_the_vital_signs(
    join: JoinLog, serve: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    serve(2)
    assert join.execute(context()) == {"interactions": 2, "apart": 0, "head": 2, "open": 0}
    (line,) = vital_signs_of(caplog)
    assert (line["bandit"], line["severity"], line["champion"]) == ("movielens-v1", "INFO", None)
    assert (line["head"], line["new_interactions"], line["interactions"], line["rewarded"]) == (2, 2, 2, 0.5)
    assert (line["acknowledged"], line["stored"], line["missing"], line["gaps"]) == (3, 3, 0, 0)
    assert (line["decisions"], line["rewards"]) == (2, 1)
    assert 300 <= line["watermark_lag_s"] < 400, "as old as the server's last heartbeat"


def test_says_that_a_gap_holds_the_log(
    join: JoinLog, serve: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    serve(1)
    assert join.execute(context())["interactions"] == 0
    (line,) = vital_signs_of(caplog)
    assert (line["severity"], line["gaps"], line["missing"], list(line["alarms"])) == ("ERROR", 1, 1, ["gap"])


def test_joins_all_the_same_where_the_vital_signs_can_not_be_measured(
    join: JoinLog, serve: Callable[[int], None], cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    serve(2)
    cloud.faults.add(Fault("storage.objects.get", "403", times=100, message="Access Denied"))  # the registry's document
    assert join.execute(context())["interactions"] == 2
    assert "no vital signs: " in caplog.text
    assert vital_signs_of(caplog) == []
