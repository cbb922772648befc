"""A server of today's YAML serves the policy of yesterday's: other actions, and ranges that the policy has learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from starlette.testclient import TestClient

from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.registry import FolderRegistry
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, ServingContainer
from rl_core.features.encoder import Encoder
from rl_core.policy.artefact import write_artefact
from rl_core.serving.parts import Parts
from rl_core.serving.policies import RegistryWatcher
from rl_core.serving.server import application

SERVED = Callable[[list[Any]], tuple[TestClient, LocalBus]]


def _bandit(actions: list[Any]) -> Bandit:
    problem = {
        "observation_dim": 2,
        "observation_version": "o1",
        "actions": actions,
        "action_set_version": "letters",
        "reward_min": -100,
        "reward_max": 100,
        "reward_default": 0,
    }
    given = {"name": "test", "prefix": "test", "pipe_version": "v1", "agent": {"agent_alpha": 0.0}}
    return Bandit.model_validate(given | {"problem": problem, "startup": {"source": "log"}})


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[SERVED]:
    """A server for a list of actions; its policy learnt of a and b: a earns the first number, b the second."""
    before = _bandit(["a", "b"])
    x, chosen = np.tile(np.eye(2, dtype=np.float32), (50, 1)), np.repeat([0, 1], 50)
    statistics = accumulate(x, chosen, (x.argmax(axis=1) == chosen).astype(float), 2)
    encoder = Encoder(dim=2, clip=(10.0, 10.0))
    write_artefact(
        tmp_path / "policy", before.problem, before.agent, statistics, scale=statistics.scale, encoder=encoder
    )
    registry = FolderRegistry(tmp_path / "registry", before.id)
    registry.promote(registry.register(tmp_path / "policy", Lineage(None, ())), None)
    with ExitStack() as stack:

        def started(actions: list[Any]) -> tuple[TestClient, LocalBus]:
            bandit, bus = _bandit(actions), LocalBus(tmp_path / "bus")
            stack.callback(bus.close)
            parts = Parts(RegistryWatcher(registry, bandit.problem), bus, b"salt")
            return stack.enter_context(TestClient(application(bandit, ServingContainer(), parts))), bus

        yield started


def _chosen(client: TestClient, observation: list[float], **more: Any) -> Counter[str]:
    # Named by what is asked, so that the draws are the same in every run.
    ids = [f"{observation}-{sorted(more.items())}-{n}" for n in range(200)]
    asked = [{"observation": observation, "event_id": event_id, **more} for event_id in ids]
    answer = client.post("/predict", json={"instances": asked})
    assert answer.status_code == 200, answer.text
    return Counter(one["action_id"] for one in answer.json()["predictions"])


class TestActions:
    def test_that_are_reordered_and_joined_by_a_new_one_are_served_as_they_were_learnt(self, serve: SERVED) -> None:
        client, _ = serve(["new", "b", "a"])
        assert _chosen(client, [1.0, 0.0]).most_common(1)[0][0] == "a"
        assert _chosen(client, [0.0, 1.0]).most_common(1)[0][0] == "b"
        assert set(_chosen(client, [1.0, 0.0])) == {"a", "b", "new"}, "the new one is explored"

    def test_that_are_withdrawn_are_not_chosen_and_not_logged_as_eligible(self, serve: SERVED) -> None:
        client, bus = serve([{"id": "a", "active": False}, "b", "c"])
        assert set(_chosen(client, [1.0, 0.0])) == {"b", "c"}
        assert set(_chosen(client, [1.0, 0.0], eligible_actions=["a", "c"])) == {"c"}
        rows = [orjson.loads(one.payload) for one in bus.read("decisions", 0)]
        assert {tuple(row["eligible_action_ids"]) for row in rows} == {("b", "c"), ("c",)}
        assert {row["propensity"] for row in rows[200:]} == {1.0}

    def test_that_are_all_withdrawn_are_refused(self, serve: SERVED) -> None:
        client, _ = serve([{"id": "a", "active": False}, "b", "c"])
        instance = {"observation": [1.0, 0.0], "eligible_actions": ["a"]}
        answer = client.post("/predict", json={"instances": [instance]})
        assert (answer.status_code, "withdrawn actions only" in answer.text) == (400, True)


class TestRanges:
    def test_clip_and_count_what_lies_outside(self, serve: SERVED) -> None:
        client, bus = serve(["a", "b"])
        _chosen(client, [500.0, 0.0])
        assert client.get("/state").json()["clipped"] == 200
        assert "banditloop_clipped_total 200.0" in client.get("/metrics").text
        assert orjson.loads(bus.read("decisions", 0)[0].payload)["observation"] == [500.0, 0.0], "logged as sent"

    def test_refuse_what_is_absurd_and_log_nothing(self, serve: SERVED) -> None:
        client, bus = serve(["a", "b"])
        answer = client.post("/predict", json={"instances": [{"observation": [0.0, 1e30]}]})
        assert (answer.status_code, bus.head("decisions")) == (400, 0)
        assert "instances[0].observation[1] is 1e+30; it must lie within ±1000" in answer.json()["error"]
