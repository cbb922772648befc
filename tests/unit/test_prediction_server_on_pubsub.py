"""The server over Pub/Sub: durable answers wait for its acknowledgement, best-effort answers never."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from starlette.testclient import TestClient

from rl_core.backends.gcp.bus.message_bus import PubSubPublisher
from rl_core.backends.gcp.clients import GoogleClients
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, ServingContainer, Settings
from rl_core.policy.artefact import write_artefact
from rl_core.serving.parts import Parts
from rl_core.serving.policies import OneArtefact
from rl_core.serving.server import application
from stand_ins.faults import Fault, Faults
from stand_ins.pubsub import PubSubStandIn
from tests.delivered_events import DeliveredEvents
from tests.harness.patience import patient, until

OBSERVATION = [0.5, -1.0, 2.0]
PROBLEM = {
    "observation_dim": 3,
    "observation_version": "test-k3",
    "actions": ["a", "b", "c", "d"],
    "action_set_version": "test-4",
    "reward_min": 0,
    "reward_max": 5,
    "reward_default": 0,
}


class World:
    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.faults = Faults()
        self.pubsub = stack.enter_context(PubSubStandIn(folder / "pubsub", self.faults))
        self.delivered = DeliveredEvents(self.clients(self.bandit()), self.pubsub)

    def bandit(self, **serving: Any) -> Bandit:
        names = {"name": "test", "prefix": "test", "pipe_version": "v1"}
        places = {"backend": "gcp", "runner": "vertex", "google": {"project": "test-project"}}
        serving = {"epsilon": 0.2, "publish_deadline_s": 5.0, **serving}
        return Bandit.model_validate(
            {**names, **places, "problem": PROBLEM, "startup": {"source": "log"}, "serving": serving}
        )

    def clients(self, bandit: Bandit) -> GoogleClients:
        clients = GoogleClients(bandit, Settings(pubsub_emulator_host=self.pubsub.address))
        self._stack.callback(clients.close)
        return clients

    def serve(self, **serving: Any) -> TestClient:
        """Begins as a process does: nothing of Pub/Sub has been asked for yet."""
        bandit = self.bandit(**serving)
        rng, artefact = np.random.default_rng(1), self._folder / "policy-1"
        observations = rng.standard_normal((200, 3)).astype(np.float32)
        statistics = accumulate(observations, rng.integers(4, size=200), rng.standard_normal(200), 4)
        write_artefact(artefact, bandit.problem, bandit.agent, statistics)
        publisher = PubSubPublisher(self.clients(bandit), heartbeat_s=0.1)
        self._stack.callback(publisher.close)
        parts = Parts(OneArtefact(artefact, bandit.problem), publisher, b"salt")
        app = application(bandit, ServingContainer(), parts)
        return self._stack.enter_context(TestClient(app, raise_server_exceptions=False))

    def logged(self, table: Any = "decisions") -> list[dict[str, Any]]:
        return [orjson.loads(event.payload) for event in self.delivered.of(table)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def ask(client: TestClient, event_id: str) -> Any:
    return client.post("/predict", json={"instances": [{"observation": OBSERVATION, "event_id": event_id}]})


def insist(client: TestClient, event_id: str) -> Any:
    """The answer that comes in the end: with so short a deadline as trouble wants, even a healthy bus may miss it."""
    deadline = time.monotonic() + patient(30)
    while (response := ask(client, event_id)).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return response


TROUBLES = {
    "503": Fault("Publish", "UNAVAILABLE", times=1000),
    "the answer is lost": Fault("Publish", "UNAVAILABLE", times=1000, after=True),
    "no answer in time": Fault("Publish", delay_s=30.0, times=1000),  # heartbeats meet some of them
    "no permission": Fault("Publish", "PERMISSION_DENIED", times=1000),
}


class TestDurable:
    def test_an_answer_is_on_the_bus(self, world: World) -> None:
        client = world.serve()
        answer = ask(client, "order-1").json()["predictions"][0]
        [row] = world.logged()
        assert {name: row[name] for name in answer} == answer
        assert client.post("/predict", json={"rewards": [{"event_id": "order-1", "reward": 2}]}).status_code == 200
        assert [(row["event_id"], row["reward"]) for row in world.logged("rewards")] == [("order-1", 2.0)]
        assert client.get("/state").json()["producer"] == world.delivered.of("rewards")[0].producer

    @pytest.mark.parametrize("trouble", TROUBLES)
    def test_trouble_is_503_in_time_and_the_retry_gets_one_answer(self, world: World, trouble: str) -> None:
        client = world.serve(publish_deadline_s=0.3)
        insist(client, "before")
        fault = TROUBLES[trouble]
        world.faults.add(Fault(fault.method, fault.code, fault.times, fault.after, delay_s=fault.delay_s))
        began = time.monotonic()
        refused = ask(client, "x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "send this again with the same event_id" in refused.json()["error"]
        assert time.monotonic() - began < 15, "who waits for Pub/Sub takes 30 s"
        world.faults.clear()
        answers = {insist(client, "x").text for _ in range(3)}
        assert len(answers) == 1
        [answer] = orjson.loads(answers.pop())["predictions"]
        copies = [row for row in world.logged() if row["event_id"] == "x"]
        assert copies
        assert all({name: row[name] for name in answer} == answer for row in copies)

    def test_nothing_that_was_acknowledged_is_lost(self, world: World) -> None:
        """16 clients while every fourth request to Pub/Sub fails, in three ways; all ask until they are answered."""
        client = world.serve(publish_deadline_s=0.2)
        for turn in range(12):
            world.faults.add(Fault("Publish", times=3))
            world.faults.add(
                (
                    Fault("Publish", "PERMISSION_DENIED"),
                    Fault("Publish", "INTERNAL", times=2, after=True),
                    Fault("Publish", delay_s=0.3),
                )[turn % 3]
            )

        with ThreadPoolExecutor(16) as pool:
            responses = list(pool.map(insist, [client] * 400, [f"event-{i}" for i in range(400)]))
        answers: list[dict[str, Any]] = [response.json()["predictions"][0] for response in responses]
        world.faults.clear()
        logged: dict[str, list[dict[str, Any]]] = {}
        for row in world.logged():
            logged.setdefault(row["event_id"], []).append(row)
        for answer in answers:
            copies = logged[answer["event_id"]]
            assert all({name: row[name] for name in answer} == answer for row in copies)
        said = {h.producer: h.decisions for h in sorted(world.delivered.heartbeats(), key=lambda h: h.at)}
        events = world.delivered.of("decisions")
        assert len(said) > 1, "some names ended"
        for producer, last in said.items():
            offsets = {event.offset for event in events if event.producer == producer}
            assert set(range(1, last + 1)) <= offsets


class TestBestEffort:
    def test_never_waits(self, world: World) -> None:
        world.faults.add(Fault("Publish", delay_s=60, times=1000))
        client = world.serve(durability="best_effort", publish_deadline_s=2.0)
        began = time.monotonic()
        for i in range(50):
            response = ask(client, f"{i}")
            assert (response.status_code, response.json()["durability"]) == (200, "best_effort")
        assert time.monotonic() - began < 50, "who waits takes the deadline, 2 s, fifty times"
        until(lambda: client.get("/state").json()["lost"] == 50)
        world.faults.clear()

    def test_gives_one_answer_to_one_event(self, world: World) -> None:
        client = world.serve(durability="best_effort")
        assert len({ask(client, "x").text for _ in range(5)}) == 1
        until(lambda: [row["event_id"] for row in world.logged()] == ["x"])
