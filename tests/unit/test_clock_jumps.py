"""Server, bus, event logger and joiner while the wall clock jumps by a day: the wait is the time that passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from rl_core.backends.base import Lineage
from rl_core.backends.local.event_store import DeltaEventStore
from rl_core.backends.local.message_bus import SqliteBus
from rl_core.backends.local.policy_registry import FolderRegistry
from rl_core.bandit.linucb import accumulate
from rl_core.bandit.policy import write_artefact
from rl_core.config import Bandit, ServingContainer
from rl_core.online.event_logger import Cycle, EventLogger
from rl_core.online.policies import RegistryWatcher
from rl_core.online.prediction_server import application
from rl_core.online.serving_parts import Parts
from tests.machine import Machine

WAIT_S = 10
DAY_S = 86_400
BANDIT = {
    "name": "test",
    "prefix": "test",
    "pipe_version": "v1",
    "problem": {
        "observation_dim": 2,
        "observation_version": "o1",
        "actions": ["a", "b"],
        "action_set_version": "a1",
        "reward_min": -1,
        "reward_max": 5,
        "reward_default": -1,
    },
    "startup": {"source": "log"},
    "join": {"reward_wait_s": WAIT_S},
}


class World:
    """A server and an event logger, each with its own handle on the bus, as two processes have it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.machine = Machine()
        self.bandit = Bandit.model_validate(BANDIT)
        self.store = DeltaEventStore(folder / "store")
        self._registry = FolderRegistry(folder / "registry", "test-v1")
        statistics = accumulate(np.eye(2, dtype=np.float32), np.arange(2), np.ones(2), 2)
        write_artefact(folder / "artefact", self.bandit.problem, self.bandit.agent, statistics)
        self._registry.promote(self._registry.register(folder / "artefact", Lineage(None, ())), None)
        self.logger = EventLogger(self.bandit, self.bus(), self.store)
        self.start_server()

    def bus(self) -> SqliteBus:
        bus = SqliteBus(self._folder / "bus" / "bus.sqlite", clock=self.machine.clock())
        self._stack.callback(bus.close)
        return bus

    def start_server(self) -> None:
        parts = Parts(RegistryWatcher(self._registry, self.bandit.problem), self.bus(), b"salt")
        self._client = self._stack.enter_context(TestClient(application(self.bandit, ServingContainer(), parts)))

    def decide(self, *event_ids: str) -> None:
        instances = [{"observation": [0.5, -1.0], "event_id": event_id} for event_id in event_ids]
        assert self._client.post("/predict", json={"instances": instances}).status_code == 200

    def reward(self, event_id: str) -> None:
        assert self._client.post("/reward", json={"event_id": event_id, "reward": 4}).status_code == 200

    def log(self) -> Cycle:
        return self.logger.run_once()

    def closed(self) -> dict[str, str]:
        found = self.store.interactions((0, self.store.head())).to_pylist()
        return {row["event_id"]: row["closed_by"] for row in found}

    def apart(self) -> list[str]:
        rows: list[dict[str, Any]] = self.store.query("SELECT * FROM rewards_apart").to_pylist()
        return [row["reason"] for row in rows]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S])
class TestAJumpOfTheWallClock:
    def test_between_a_decision_and_its_reward_changes_nothing(self, world: World, jump_s: int) -> None:
        world.decide("soon", "too late", "never")
        world.machine.passes(2)
        world.machine.jumps(jump_s)
        world.machine.passes(3)
        world.reward("soon")
        assert world.log().open == 3
        world.machine.passes(3)
        assert world.log().interactions == 0
        world.machine.passes(5)
        world.reward("too late")
        world.log()
        assert world.closed() == {"soon": "reward", "too late": "timeout", "never": "timeout"}
        assert world.apart() == ["late"]

    def test_before_a_decision_changes_nothing(self, world: World, jump_s: int) -> None:
        world.decide("before")
        world.machine.jumps(jump_s)
        world.decide("after")
        world.machine.passes(5)
        world.reward("after")
        world.reward("before")
        world.machine.passes(10)
        world.log()
        assert world.closed() == {"before": "reward", "after": "reward"}

    def test_and_a_new_server_after_it_change_nothing(self, world: World, jump_s: int) -> None:
        world.decide("a", "b")
        world.machine.jumps(jump_s)
        world.start_server()
        world.machine.passes(5)
        world.reward("a")
        assert world.log().interactions == 0
        world.machine.passes(8)
        world.log()
        assert world.closed() == {"a": "reward", "b": "timeout"}

    def test_and_back_closes_nothing_twice(self, world: World, jump_s: int) -> None:
        for n in range(4):
            world.decide(f"e{n}")
            world.machine.jumps(jump_s if n % 2 else -jump_s)
            world.machine.passes(4)
            world.reward(f"e{n}")
            world.log()
        world.machine.passes(12)
        world.log()
        assert world.closed() == {f"e{n}": "reward" for n in range(4)}
        assert world.apart() == []

    def test_does_not_make_the_bus_forget_its_keys(self, world: World, jump_s: int) -> None:
        world.decide("a")
        world.machine.jumps(jump_s)
        world.machine.passes(60)
        world.log()
        assert world.logger.prune() == 0


def test_an_outage_of_the_logger_longer_than_the_wait_defaults_nothing_that_was_rewarded_in_time(world: World) -> None:
    for n in range(3):
        world.decide(f"e{n}", f"silent{n}")
        world.machine.passes(WAIT_S - 1)
        world.reward(f"e{n}")
    world.machine.passes(20 * WAIT_S)
    assert world.log().interactions == 6
    assert world.closed() == {f"e{n}": "reward" for n in range(3)} | {f"silent{n}": "timeout" for n in range(3)}


def test_a_wait_is_counted_from_the_decision_though_it_was_logged_late(world: World) -> None:
    world.decide("a")
    world.machine.passes(WAIT_S + 1)
    world.reward("a")  # before anybody has read the decision
    world.log()
    world.decide("b")
    world.log()
    world.machine.passes(WAIT_S - 1)
    world.reward("b")
    world.machine.passes(2)
    world.log()
    assert (world.closed(), world.apart()) == ({"a": "timeout", "b": "reward"}, ["late"])
