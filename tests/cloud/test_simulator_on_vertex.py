"""Simulated users who reach a real server through Vertex AI's rawPredict, and what they do in trouble."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.gcp.endpoint.endpoint import ensure_endpoint, ensure_server_deployed
from rl_core.backends.gcp.registry.policy_registry import VertexRegistry
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, Settings
from rl_core.errors import EndpointAbsent, EndpointError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.policy.artefact import write_artefact
from rl_core.simulation import simulator
from stand_ins.cloud import Cloud
from stand_ins.faults import Fault
from tests.delivered_events import DeliveredEvents

pytestmark = pytest.mark.process


class World:
    """A bandit with a champion that a server behind the endpoint serves."""

    def __init__(self, cloud: Cloud, folder: Path, bandit: Bandit, ratings: Path) -> None:
        self.cloud = cloud
        self.bandit = bandit
        variables = cloud.environment("rest", "pubsub") | cloud.environment("vertex")
        self.settings = Settings(
            home=folder / "home",
            movielens_dir=ratings,
            google_endpoint=variables["BANDIT_GOOGLE_ENDPOINT"],
            pubsub_emulator_host=variables["BANDIT_PUBSUB_EMULATOR_HOST"],
        )
        self.clients = GoogleClients(bandit, self.settings)
        self.clients.bucket.create(location="europe-west1")
        self.delivered = DeliveredEvents(self.clients, cloud.pubsub)

    def deploy(self, folder: Path) -> None:
        rng, problem = np.random.default_rng(1), self.bandit.problem
        observations = rng.standard_normal((500, problem.observation_dim)).astype(np.float32)
        actions = rng.integers(problem.num_actions, size=500)
        statistics = accumulate(observations, actions, rng.standard_normal(500), problem.num_actions)
        write_artefact(folder / "policy", problem, self.bandit.agent, statistics)
        registry = VertexRegistry(self.clients)
        version = registry.register(folder / "policy", Lineage(None, ()))
        registry.promote(version, None)
        ensure_endpoint(self.clients)
        ensure_server_deployed(self.clients)

    def send(self, decisions: int) -> simulator.Traffic:
        return simulator.send(self.bandit, self.settings, decisions, concurrency=4, seed=1, round=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, synthetic_ratings_dir: Path, repo_yaml: Bandit) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with Cloud(folder / "cloud", runs={}) as cloud:
        world = World(cloud, folder, repo_yaml, synthetic_ratings_dir)
        with pytest.raises(EndpointAbsent):
            world.send(1)
        world.deploy(folder)
        yield world
        world.clients.close()


@pytest.fixture(scope="module")
def repo_yaml() -> Bandit:
    """The shipped bandit, on Google Cloud, with answers that may take their time on a busy machine."""
    shipped = Bandit.from_yaml(Path(__file__).resolve().parents[2] / "dags" / "bandits" / "movielens.yaml")
    google = {"project": "test-project", "image": f"python-banditloop@sha256:{'0' * 64}", "endpoint": {"poll_s": 0.2}}
    cloud = {"backend": "gcp", "runner": "vertex", "google": google}
    serving = {**shipped.serving.model_dump(), "publish_deadline_s": 10.0}
    return Bandit.model_validate({**shipped.model_dump(mode="json"), **cloud, "serving": serving})


def test_every_decision_and_reward_goes_through_the_one_route(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    traffic = world.send(60)
    assert traffic.complete
    decided = {event.key: orjson.loads(event.payload) for event in world.delivered.of("decisions")}
    rewarded = {event.key: orjson.loads(event.payload) for event in world.delivered.of("rewards")}
    assert set(traffic.acknowledged_ids) <= decided.keys()
    assert set(traffic.acknowledged_ids) <= rewarded.keys()
    assert {row["source"] for row in decided.values()} == {"simulator"}
    said = capsys.readouterr().out
    assert "60 users from file, 4 at a time, to Vertex AI endpoint movielens-v1" in said
    assert "acknowledged 60 of 60 decisions and 60 rewards" in said


@pytest.mark.parametrize("after", [False, True], ids=["no answer", "an answer that is lost"])
def test_the_same_event_is_asked_again(world: World, after: bool) -> None:
    for code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED"):
        world.cloud.faults.add(Fault("RawPredict", code, times=2, after=after))
    traffic = world.send(20)
    assert traffic.complete
    assert traffic.retries == 4
    keys = [event.key for event in world.delivered.of("decisions")]
    assert len(keys) == len(set(keys)), "what was answered twice was logged once"


def test_a_missing_right_ends_it_and_is_named(world: World) -> None:
    world.cloud.faults.add(Fault("RawPredict", "PERMISSION_DENIED"))
    with pytest.raises(EndpointError, match=r"permission denied .*roles/aiplatform\.user on the project"):
        world.send(5)


def test_a_request_that_breaks_a_rule_is_refused_in_the_servers_words(world: World) -> None:
    # More than once: requests of the test before, which ended at its first refusal, may still be on their way.
    world.cloud.faults.add(Fault("RawPredict", "INVALID_ARGUMENT", message="400: not a number", times=8))
    with pytest.raises(EndpointError, match=r"/predict answered 400: .*not a number"):
        world.send(5)
