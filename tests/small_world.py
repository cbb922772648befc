"""One bandit on one machine whose clocks a test sets: a server with a champion, bus, event logger and store."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from starlette.testclient import TestClient

from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.registry import FolderRegistry
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, ServingContainer
from rl_core.joining.event_logger import Cycle, EventLogger
from rl_core.policy.artefact import write_artefact
from rl_core.serving.parts import Parts
from rl_core.serving.policies import RegistryWatcher
from rl_core.serving.server import application
from tests.machine import Machine

WAIT_S = 10
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
    "serving": {"publish_deadline_s": 20.0},  # whatever the disk is like
}


class World:
    """A server and an event logger, each with its own handle on the bus, as two processes have it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.path, self._stack = folder, stack
        self.machine = Machine()
        self.bandit = Bandit.model_validate(BANDIT)
        self.store = DeltaEventStore(folder / "store")
        self._registry = FolderRegistry(folder / "registry", "test-v1")
        statistics = accumulate(np.eye(2, dtype=np.float32), np.arange(2), np.ones(2), 2)
        write_artefact(folder / "artefact", self.bandit.problem, self.bandit.agent, statistics)
        self._registry.promote(self._registry.register(folder / "artefact", Lineage(None, ())), None)
        self.logger = EventLogger(self.bandit, self.bus(), self.store)
        self.start_server()

    def bus(self) -> LocalBus:
        bus = LocalBus(self.path / "bus", clock=self.machine.clock())
        self._stack.callback(bus.close)
        return bus

    def start_server(self) -> None:
        parts = Parts(RegistryWatcher(self._registry, self.bandit.problem), self.bus(), b"salt")
        self._client = self._stack.enter_context(TestClient(application(self.bandit, ServingContainer(), parts)))

    def ask(self, *event_ids: str) -> Any:
        instances = [{"observation": [0.5, -1.0], "event_id": event_id} for event_id in event_ids]
        return self._client.post("/predict", json={"instances": instances})

    def decide(self, *event_ids: str) -> None:
        assert self.ask(*event_ids).status_code == 200

    def reward(self, event_id: str, value: float = 4) -> None:
        assert self._client.post("/reward", json={"event_id": event_id, "reward": value}).status_code == 200

    def log(self) -> Cycle:
        return self.logger.run_once()

    def closed(self) -> dict[str, str]:
        found = self.store.interactions((0, self.store.head())).to_pylist()
        return {row["event_id"]: row["closed_by"] for row in found}

    def apart(self) -> list[str]:
        reasons: list[str] = self.store.query("SELECT reason FROM rewards_apart")["reason"].to_pylist()
        return reasons
