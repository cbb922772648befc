"""The gate of a bandit whose log is in BigQuery: what it counts, what that scans, and as whom it asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.gcp.store.tables import ensure_tables
from rl_core.config import Bandit
from rl_core.stages import generator
from tests.dags.test_gate_and_lease import add_version, context

if TYPE_CHECKING:
    from bandit_ops.sensors import InteractionSensor
    from rl_core.config import Settings
    from stand_ins.cloud import Cloud

pytestmark = pytest.mark.usefixtures("airflow_home")


@pytest.fixture
def gate(cloud: Cloud, cloud_movielens: Bandit, settings: Settings, tmp_path: Path) -> Iterator[InteractionSensor]:
    """Twenty interactions that the champion holds, and twelve that are new."""
    from bandit_ops.sensors import InteractionSensor

    task = InteractionSensor(task_id="gate", bandit=cloud_movielens)
    clients, registry = task.clients, task.open_registry()
    assert clients is not None
    clients.bucket.create(location=clients.names.location)
    ensure_tables(clients)
    add_version(registry, tmp_path, None)
    registry.promote("movielens-v1-0001", None)
    led = settings.model_copy(update={"google_endpoint": cloud.environment("rest")["BANDIT_GOOGLE_ENDPOINT"]})
    for round_, rounds in enumerate((20, 12)):
        generator.run(cloud_movielens, led, rounds=rounds, seed=round_)
    yield task
    clients.close()


def test_counts_without_scanning_a_byte_and_says_so(
    gate: InteractionSensor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate.execute(context(min_new_interactions=12)) == {"head": 32, "count": 12}
    told = capsys.readouterr().out
    assert "counted by scanning 0 bytes of the log" in told
    assert "12 of 12 new interactions: the gate opens" in told


def test_what_a_query_scans_is_counted(gate: InteractionSensor) -> None:
    store = gate.open_store()
    assert isinstance(store, BigQueryEventStore)
    store.interactions((20, 32), ["reward"])
    once = store.bytes_scanned
    assert once > 0
    store.interactions((20, 32), ["reward"])
    assert store.bytes_scanned == 2 * once
