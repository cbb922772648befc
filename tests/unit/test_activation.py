"""Deferred decisions, activations and subjects: from the request to the closed decision."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from starlette.testclient import TestClient

from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.registry import FolderRegistry
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, ServingContainer
from rl_core.errors import SchemaError
from rl_core.joining.event_logger import EventLogger
from rl_core.movielens.environment import MovieLensEnvironment
from rl_core.policy.artefact import write_artefact
from rl_core.problem_config import Problem
from rl_core.serving import api
from rl_core.serving.parts import Parts
from rl_core.serving.policies import RegistryWatcher
from rl_core.serving.requests import parse_activations, parse_predict
from rl_core.serving.server import application
from rl_core.simulation.traffic import simulate

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
OBSERVATION = [0.5, -1.0, 2.0]


class World:
    """A bandit with a champion, its bus and its store, and clients of its server."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self.bus = LocalBus(folder / "bus")
        stack.callback(self.bus.close)
        self.store = DeltaEventStore(folder / "store")
        self._registry = FolderRegistry(folder / "registry", "test-v1")
        bandit, artefact = self.bandit(), folder / "artefact"
        rng = np.random.default_rng(1)
        observations = rng.standard_normal((200, 3)).astype(np.float32)
        write_artefact(
            artefact,
            bandit.problem,
            bandit.agent,
            accumulate(observations, rng.integers(3, size=200), rng.standard_normal(200), 3),
        )
        self._registry.promote(self._registry.register(artefact, Lineage(None, ())), None)

    def bandit(self, **serving: Any) -> Bandit:
        problem = {
            "observation_dim": 3,
            "observation_version": "test-k3",
            "actions": ["movie-1", "movie-2", "movie-3"],
            "action_set_version": "test-3",
            "reward_min": -10,
            "reward_max": 10,
            "reward_default": -1,
        }
        fields = {"name": "test", "prefix": "test", "pipe_version": "v1", "problem": problem}
        return Bandit.model_validate(
            {**fields, "startup": {"source": "log"}, "serving": {"publish_deadline_s": 20.0, **serving}}
        )

    def client(self, **serving: Any) -> TestClient:
        bandit = self.bandit(**serving)
        parts = Parts(RegistryWatcher(self._registry, bandit.problem), self.bus, b"salt")
        return self._stack.enter_context(TestClient(application(bandit, ServingContainer(), parts)))

    def logged(self, topic: Any = "decisions") -> list[dict[str, Any]]:
        return [orjson.loads(delivery.payload) for delivery in self.bus.read(topic, 0)]

    def closed(self) -> dict[str, tuple[str, bool]]:
        """How each decision ends, when its time has come and everything has been read."""
        bandit = self.bandit()
        EventLogger(bandit, self.bus, self.store).run_once()
        self.store.joiner(bandit).run(datetime.now(UTC) + timedelta(seconds=bandit.join.reward_wait_s + 1))
        found = self.store.interactions((0, self.store.head())).to_pylist()
        return {row["event_id"]: (row["closed_by"], row["served"]) for row in found}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def ask(client: TestClient, *event_ids: str, parameters: Any = None, **fields: Any) -> list[dict[str, Any]]:
    instances = [{"observation": OBSERVATION, "event_id": event_id, **fields} for event_id in event_ids]
    content = {"instances": instances} | ({"parameters": parameters} if parameters else {})
    response = client.post("/predict", json=content)
    assert response.status_code == 200, response.text
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


DEFER, NOT = {"defer_activation": True}, {"defer_activation": False}


class TestADeferredDecision:
    @pytest.mark.parametrize(
        ("default", "asked", "deferred"),
        [(False, None, False), (False, DEFER, True), (False, NOT, False), (True, None, True), (True, NOT, False)],
    )
    def test_is_what_the_request_says_or_else_the_bandit(
        self, world: World, default: bool, asked: Any, deferred: bool
    ) -> None:
        client = world.client(defer_activation=default)
        [answer] = ask(client, "a", parameters=asked)
        [row] = world.logged()
        assert (answer.get("deferred"), row.get("deferred")) == ((True, True) if deferred else (None, None))
        assert client.get("/state").json()["deferred"] == deferred

    @pytest.mark.parametrize("durability", ["durable", "best_effort"])
    def test_stays_what_it_was_when_it_is_asked_for_again(self, world: World, durability: str) -> None:
        first = ask(world.client(durability="durable"), "a", parameters=DEFER) + ask(world.client(), "b")
        again = world.client(durability=durability)
        assert ask(again, "a") + ask(again, "b", parameters=DEFER) == first
        assert len(world.logged()) == 2
        assert again.get("/state").json()["deferred"] == 0

    def test_trains_only_if_it_was_activated_or_rewarded(self, world: World) -> None:
        client = world.client()
        ask(client, "unused", "activated", "rewarded", parameters=DEFER)
        ask(client, "plain", "activated needlessly")
        assert client.post("/activate", json={"activations": ["activated", "activated needlessly"]}).json() == {
            "accepted": 2
        }
        client.post("/reward", json={"event_id": "rewarded", "reward": 1})
        assert world.closed() == {
            "unused": ("unactivated", False),
            "activated": ("timeout", True),
            "rewarded": ("reward", True),
            "plain": ("timeout", True),
            "activated needlessly": ("timeout", True),
        }

    def test_of_a_simulated_user_is_activated_by_the_reward(self, world: World) -> None:
        client = world.client(defer_activation=True)
        ratings = np.random.default_rng(0).integers(1, 6, size=(12, 5)).astype(float)
        environment = MovieLensEnvironment(ratings, rank_k=3, num_actions=3, noise_sd=0.5, seed=4)
        traffic = simulate(environment, lambda: _Line(client), 40, concurrency=2)
        assert traffic.complete
        assert world.closed() == dict.fromkeys(traffic.acknowledged_ids, ("reward", True))
        assert client.get("/state").json()["deferred"] == 40


class _Line:
    """A connection of a simulated user to a server in this process."""

    def __init__(self, client: TestClient) -> None:
        self._client = client

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        response = await asyncio.to_thread(self._client.post, path, content=body)
        return response.status_code, response.content

    def close(self) -> None:
        pass


class TestActivations:
    @pytest.mark.parametrize("route", ["/activate", "/predict"])
    def test_are_on_the_bus_when_they_are_acknowledged(self, world: World, route: str) -> None:
        client = world.client()
        response = client.post(route, json={"activations": ["a", "b"]})
        assert (response.status_code, response.json()) == (200, {"accepted": 2})
        rows = world.logged("rewards")
        assert [row["event_id"] for row in rows] == ["a", "b"]
        assert {(row.get("reward"), row["activation"]) for row in rows} == {(None, True)}
        state = client.get("/state").json()
        assert (state["activations"], state["rewards"], state["latency"]) == (2, 0, None)
        assert "banditloop_activations_total 2.0\n" in client.get("/metrics").text

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({}, "activations is missing; send a list of 1 to 4"),
            ({"activations": []}, r"activations is \[\]; send a list"),
            ({"activations": "a"}, 'activations is "a"; send a list'),
            ({"activations": ["a"] * 5}, "activations has 5 entries; serving.max_instances is 4"),
            ({"activations": ["a", 7]}, r"activations\[1\] is 7; use a string of 1 to 128 characters"),
            ({"activations": ["x" * 129]}, r"activations\[0\] is 129 characters long"),
            ({"activations": [{"event_id": "a"}]}, r"activations\[0\] is an object"),
            ({"activations": ["a"], "rewards": []}, 'the body has "rewards", which is unknown'),
            ([], "the body is .*; send an object like"),
        ],
    )  # fmt: skip
    def test_are_refused_as_a_whole_in_one_line(self, movielens: Bandit, content: Any, message: str) -> None:
        with pytest.raises(SchemaError, match=message) as refused:
            parse_activations(json.dumps(content).encode(), 4, NOW)
        assert "\n" not in str(refused.value)

    def test_of_a_bus_in_trouble_are_503(self, world: World) -> None:
        client = world.client()
        world.bus.close()
        response = client.post("/activate", json={"activations": ["a"]})
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")


class TestASubject:
    def test_is_in_the_log_and_never_in_the_answer(self, world: World) -> None:
        client = world.client()
        [answer] = ask(client, "a", subject="customer 7 ä")
        assert "subject" not in answer
        assert ask(client, "a", subject="another") == [answer]
        [anonymous] = ask(client, "b")
        assert anonymous.keys() == answer.keys()
        assert [row.get("subject") for row in world.logged()] == ["customer 7 ä", None]
        world.closed()
        found = world.store.interactions((0, 2), ["event_id", "subject"]).to_pylist()
        assert sorted(row["subject"] or "" for row in found) == ["", "customer 7 ä"]

    @pytest.mark.parametrize(
        ("subject", "message"),
        [
            ("", r'instances\[0\].subject is ""; use a string of 1 to 256 characters, no control characters'),
            ("x" * 257, "subject is 257 characters long"),
            ("a\nb", "no control characters"),
            (7, "subject is 7"),
            (None, "subject is null"),
        ],
    )
    def test_is_a_short_string(self, problem: Problem, subject: Any, message: str) -> None:
        body = {"instances": [{"observation": [0.0] * problem.observation_dim, "subject": subject}]}
        with pytest.raises(SchemaError, match=message):
            parse_predict(json.dumps(body).encode(), problem, 4, NOW)

    def test_may_be_256_characters_long(self, problem: Problem) -> None:
        body = {"instances": [{"observation": [0.0] * problem.observation_dim, "subject": "x" * 256}]}
        request: Any = parse_predict(json.dumps(body).encode(), problem, 4, NOW)
        assert request.subjects == ["x" * 256]


@pytest.fixture
def problem(movielens: Bandit) -> Problem:
    return movielens.problem


@pytest.mark.parametrize("given", [None, 1, "true", []])
def test_deferring_is_true_or_false(problem: Problem, given: Any) -> None:
    body = {
        "instances": [{"observation": [0.0] * problem.observation_dim}],
        "parameters": {"defer_activation": given},
    }
    with pytest.raises(SchemaError, match=r"parameters.defer_activation is .*; it is true or false, or left out"):
        parse_predict(json.dumps(body).encode(), problem, 4, NOW)


def test_openapi_has_the_bandits_default_and_the_limits(movielens: Bandit) -> None:
    serving = movielens.serving.model_copy(update={"defer_activation": True, "max_instances": 7})
    bandit = movielens.model_copy(update={"serving": serving})
    defined = api.predict_body(bandit).model_json_schema()["$defs"]
    assert defined["Parameters"]["properties"]["defer_activation"]["default"] is True
    activations = api.bodies(bandit)[2].model_json_schema()["properties"]["activations"]
    assert (activations["minItems"], activations["maxItems"]) == (1, 7)
