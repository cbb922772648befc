"""What is sent again because the answer was lost counts once: every hop between a request and the joined log.

Elsewhere: Pub/Sub's publisher (test_pubsub_publisher.py), BigQuery's loads and joins (test_bigquery_event_store.py,
test_bigquery_joiner.py), the logger function (tests/functions/test_bundle.py), simulated users (test_simulator.py), a
joiner killed between its writes (tests/contract/test_join_properties.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest

from rl_core.backends.contracts.bus import Message, Receipt
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.store.event_store import DeltaEventStore, Log
from rl_core.errors import BusError, StoreError
from rl_core.joining.event_logger import EventLogger
from tests.small_world import WAIT_S, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


class TestAClient:
    def test_that_asks_again_gets_its_answer_and_is_logged_once(self, world: World) -> None:
        world.decide("a", "b")
        world.decide("b", "a")
        world.start_server()
        world.decide("a")
        assert world.log().decisions == 2

    def test_that_rewards_again_is_counted_once(self, world: World) -> None:
        world.decide("a")
        for value in (4, 4, 3):
            world.reward("a", value)
        world.machine.passes(2 * WAIT_S)
        world.log()
        assert [row["reward"] for row in world.store.interactions((0, 1)).to_pylist()] == [4]
        assert world.apart() == ["duplicate", "duplicate"]


class SilentBus(LocalBus):
    """Takes what is published, and says now and then that it did not."""

    failing = 0

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        receipts = super().publish(messages)
        if self.failing:
            self.failing -= 1
            raise BusError("no answer from the disk")
        return receipts


def test_a_group_commit_that_took_effect_though_it_failed_is_repeated_without_effect(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = SilentBus(world.path / "bus", clock=world.machine.clock())
    monkeypatch.setattr(world, "bus", lambda: bus)
    world.start_server()
    bus.failing = 1
    assert world.ask("a").status_code == 503
    answers = [world.ask("a").json() for _ in range(2)]
    assert answers[0] == answers[1]
    world.reward("a")
    world.machine.passes(2 * WAIT_S)
    world.log()
    assert world.closed() == {"a": "reward"}
    bus.close()


class SilentStore(DeltaEventStore):
    """Writes, and says after the write named in `failing` that it did not."""

    failing: str | None = None

    def append(self, table: Log, rows: pa.Table, rejected: pa.Table | None = None) -> int:
        new = super().append(table, rows, rejected)
        self._written(table)
        return new

    def append_interactions(self, rows: pa.Table) -> None:
        super().append_interactions(rows)
        self._written("interactions")

    def append_apart(self, rows: pa.Table) -> None:
        super().append_apart(rows)
        self._written("rewards_apart")

    def _written(self, table: str) -> None:
        if table == self.failing:
            self.failing = None
            raise StoreError("no answer from the disk")


@pytest.mark.parametrize("failing", ["decisions", "rewards", "interactions", "rewards_apart"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_write_of_the_logger_that_took_effect_though_it_failed_is_repeated_without_effect(
    world: World, failing: str, restarted: bool
) -> None:
    store = SilentStore(world.path / "store")
    logger = EventLogger(world.bandit, world.bus(), store)
    world.decide("a", "b")
    world.reward("a")
    world.reward("a")
    world.machine.passes(2 * WAIT_S)
    store.failing = failing
    with pytest.raises(StoreError, match="no answer"):
        logger.run_once()
    if restarted:
        logger = EventLogger(world.bandit, world.bus(), store)
    logger.run_once()
    logger.run_once()
    assert world.closed() == {"a": "reward", "b": "timeout"}
    assert world.apart() == ["duplicate"]
    assert store.query(
        "SELECT (SELECT count(*) FROM decisions) AS d, (SELECT count(*) FROM rewards) AS r"
    ).to_pylist() == [{"d": 2, "r": 2}]
