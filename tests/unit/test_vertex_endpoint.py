"""The endpoint on Vertex AI, with the real clients and real servers behind a stand-in that deploys them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.api import httpbody_pb2
from google.api_core.exceptions import ServiceUnavailable
from pydantic import ValidationError

from rl_core.backends.contracts.endpoint import Endpoint
from rl_core.backends.contracts.registry import Lineage, PolicyRegistry
from rl_core.backends.gcp.endpoint.containers import serving_container
from rl_core.backends.gcp.endpoint.endpoint import (
    delete_endpoint,
    delete_models,
    endpoint_name,
    ensure_endpoint,
    open_vertex_endpoint,
)
from rl_core.backends.gcp.endpoint.endpoint import ensure_server_deployed as ensure_server
from rl_core.backends.gcp.endpoint.replicas import ReplicaReporter, live
from rl_core.backends.gcp.registry.policy_registry import VertexRegistry
from rl_core.backends.promotion import make_champion
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError, EndpointAbsent, EndpointError, PolicyError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.monitoring.status import status_of
from rl_core.policy.artefact import write_artefact
from stand_ins.cloud import Cloud
from stand_ins.faults import Fault
from tests.harness.patience import patient

REPO = Path(__file__).parents[2]
THREADS = """
import sys, threading
from rl_core.config import ServingContainer, Settings
from rl_core.serving.parts import opened
begin = threading.Thread.start
def tell(thread):
    print(thread.name, {"google.cloud.storage", "google.pubsub_v1"} <= sys.modules.keys(), flush=True)
    begin(thread)
threading.Thread.start = tell
settings = Settings.from_environment()
with opened(settings.bandit(None), settings, ServingContainer()):
    pass
"""
"""Opens a server's parts, and says of each thread whether the libraries were there when it began."""
IMAGES = [f"python-banditloop@sha256:{digit * 64}" for digit in "01"]


class World:
    """A project with a bucket and a topic; a bandit of three observed numbers and four actions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cloud = Cloud(folder / "cloud", runs={})
        self._opened: list[GoogleClients] = []
        self.clients = self.acting()
        self.clients.bucket.create(location="europe-west1")
        self.clients.publisher.create_topic(name=self.clients.names.events_topic)

    def acting(self, serving: dict[str, Any] | None = None, **google: Any) -> GoogleClients:
        variables = self.cloud.environment("rest", "pubsub") | self.cloud.environment("vertex")
        settings = Settings(
            home=self.folder / "home",
            google_endpoint=variables["BANDIT_GOOGLE_ENDPOINT"],
            pubsub_emulator_host=variables["BANDIT_PUBSUB_EMULATOR_HOST"],
        )
        self._opened.append(GoogleClients(bandit(serving, **google), settings))
        return self._opened[-1]

    def close(self) -> None:
        for clients in self._opened:
            clients.close()

    def registry(self) -> PolicyRegistry:
        return VertexRegistry(self.clients)

    def endpoint(self, acting: GoogleClients | None = None) -> Endpoint:
        clients = acting or self.clients
        return open_vertex_endpoint(clients)

    def register(self, registry: PolicyRegistry, seed: int, damaged: bool = False) -> str:
        rng = np.random.default_rng(seed)
        observations = rng.standard_normal((200, 3)).astype(np.float32)
        statistics = accumulate(observations, rng.integers(4, size=200), rng.standard_normal(200), 4)
        artefact = self.folder / f"artefact-{seed}"
        write_artefact(artefact, self.clients.bandit.problem, self.clients.bandit.agent, statistics)
        if damaged:
            (artefact / "statistics.npz").write_bytes(b"not what the manifest says")
        return registry.register(artefact, Lineage(registry.alias("champion"), ()))


class Reports:
    """Replicas that say what a test wants."""

    def __init__(self, world: World) -> None:
        self._world = world

    def say(self, replica: str, champion: str | None = None, **state: Any) -> None:
        said = {"champion": champion, "challenger": None, "refused": {}, **state}
        ReplicaReporter(self._world.clients, replica).report(said)

    def age(self, replica: str, by: timedelta) -> None:
        self._world.cloud.storage.age("test-project-test-v1", f"test-v1/endpoint/replicas/{replica}.json", by)


def bandit(serving: dict[str, Any] | None = None, **google: Any) -> Bandit:
    endpoint = {"poll_s": 0.1, **google.pop("endpoint", {})}
    return Bandit.model_validate(
        {
            "name": "test",
            "prefix": "test",
            "pipe_version": "v1",
            "backend": "gcp",
            "problem": {
                "observation_dim": 3,
                "observation_version": "test-k3",
                "actions": ["a", "b", "c", "d"],
                "action_set_version": "test-4",
                "reward_min": 0,
                "reward_max": 5,
                "reward_default": 0,
            },
            "serving": serving or {},
            "google": {"project": "test-project", "image": IMAGES[0], "endpoint": endpoint, **google},
        }
    )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with world.cloud:
        yield world
        world.close()


def deployed(world: World) -> dict[str, int]:
    """Per cent of the traffic by the display name and version of what is deployed."""
    endpoint = world.cloud.vertex.endpoints.find(endpoint_name(world.clients))
    return {
        f"{one.display_name}@{one.model_version_id}": endpoint.traffic_split.get(one.id, 0)
        for one in endpoint.deployed_models
    }


def answered_by(clients: GoogleClients) -> str:
    """The version that answers a prediction through the endpoint."""
    instances = {"instances": [{"observation": [0.5, -1.0, 2.0]}]}
    body = httpbody_pb2.HttpBody(content_type="application/json", data=json.dumps(instances).encode())
    answer = clients.predictions.raw_predict(endpoint=endpoint_name(clients), http_body=body, timeout=patient(30))
    version: str = json.loads(answer.data)["predictions"][0]["policy_version"]
    return version


class TestTheEndpoint:
    def test_that_is_missing_is_said_with_the_settings_that_lead_to_it(self, world: World) -> None:
        with pytest.raises(EndpointAbsent, match=r"no Vertex endpoint test-v1 .*google\.region=europe-west1"):
            world.endpoint().state()

    def test_is_made_once_and_deleted_with_all_that_was_made(self, world: World) -> None:
        assert (ensure_endpoint(world.clients), ensure_endpoint(world.clients)) == (True, False)
        made = world.cloud.vertex.endpoints.find(endpoint_name(world.clients))
        assert (made.display_name, dict(made.labels)) == ("test-v1", {"banditloop": "test-v1"})
        with pytest.raises(EndpointAbsent, match="no replica reported in the last 60 s"):
            world.endpoint().load("test-v1-0001")
        assert (delete_endpoint(world.clients), delete_endpoint(world.clients)) == (True, False)

    def test_whose_creation_got_no_answer_is_not_made_twice(self, world: World) -> None:
        world.cloud.faults.add(Fault("CreateEndpoint", code="UNAVAILABLE", after=True))
        with pytest.raises(EndpointError, match="try again later"):
            ensure_endpoint(world.clients)
        assert ensure_endpoint(world.clients) is False

    def test_permission_denied_names_the_role(self, world: World) -> None:
        world.cloud.faults.add(Fault("ListEndpoints", code="PERMISSION_DENIED"))
        with pytest.raises(EndpointError, match=r"permission denied .*roles/aiplatform\.user on the project"):
            ensure_endpoint(world.clients)

    def test_without_an_image_nothing_is_deployed(self, world: World) -> None:
        ensure_endpoint(world.clients)
        with pytest.raises(ConfigError, match=r"google\.image is empty; build the job image"):
            ensure_server(world.acting(image=None))


class TestOneServer:
    """deploy_mode=pointer."""

    def test_serves_champion_after_champion_and_refuses_a_damaged_one(self, world: World) -> None:
        ensure_endpoint(world.clients)
        assert ensure_server(world.clients) is True
        registry, endpoint = world.registry(), world.endpoint()
        assert answered_by(world.clients) == "uniform", "a cold start"
        assert (endpoint.state()["serves"], endpoint.state()["champion"]) == ("uniform", None)
        one, two = world.register(registry, 1), world.register(registry, 2)
        make_champion(registry, endpoint, one, None)
        assert answered_by(world.clients) == one
        make_champion(registry, endpoint, two, one)
        assert answered_by(world.clients) == two
        damaged = world.register(registry, 3, damaged=True)
        with pytest.raises(PolicyError, match=rf"the endpoint refused {damaged}: .*statistics\.npz: .* \(replica "):
            make_champion(registry, endpoint, damaged, two)
        state = endpoint.state()
        assert (state["champion"], state["loaded"], state["decisions"]) == (two, [one, two], 3)
        assert state["serves"] == answered_by(world.clients) == two

    def test_that_refuses_a_cold_start_is_deployed_all_the_same(self, world: World) -> None:
        """A health check that failed would keep Vertex from deploying the server before startup has trained."""
        refusing = world.acting(serving={"cold_start": "refuse"})
        ensure_endpoint(refusing)
        assert ensure_server(refusing) is True
        with pytest.raises(ServiceUnavailable, match=r"no policy yet and serving\.cold_start is refuse"):
            answered_by(refusing)
        assert world.endpoint(refusing).state()["serves"] is None

    @pytest.mark.parametrize(
        ("method", "after"), [("DeployModel", True), ("UpdateEndpoint", False), ("UndeployModel", True)]
    )
    def test_of_another_image_takes_over_wherever_it_was_stopped(self, world: World, method: str, after: bool) -> None:
        ensure_endpoint(world.clients)
        assert [ensure_server(world.clients) for _ in range(2)] == [True, False]
        other = world.acting(image=IMAGES[1])
        world.cloud.faults.add(Fault(method, code="PERMISSION_DENIED", after=after))
        with pytest.raises(EndpointError, match="permission denied"):
            ensure_server(other)
        assert sum(deployed(world).values()) == 100
        assert ensure_server(other) is (method != "UndeployModel")
        assert deployed(world) == {"server@2": 100}

    def test_of_another_image_replaces_the_one_before_where_there_is_room_for_one(self, world: World) -> None:
        private = {"network": "projects/1/global/networks/inside"}
        ensure_endpoint(world.acting(endpoint=private))
        for version, image in enumerate(IMAGES[:2], start=1):
            clients = world.acting(image=image, endpoint=private)
            assert [ensure_server(clients) for _ in range(2)] == [True, False]
            assert deployed(world) == {f"server@{version}": 100}
        with pytest.raises(ValidationError, match=r"a private endpoint .* holds one; use deploy_mode: pointer"):
            bandit(endpoint={**private, "deploy_mode": "model"})

    def test_is_made_of_its_own_image_where_one_is_named(self, world: World) -> None:
        assert serving_container(world.acting()).image_uri == IMAGES[0]
        lighter = world.acting(server_image=IMAGES[1])
        assert serving_container(lighter).image_uri == IMAGES[1]
        ensure_endpoint(world.clients)
        assert [ensure_server(world.clients), ensure_server(lighter), ensure_server(lighter)] == [True, True, False]

    def test_has_imported_googles_libraries_before_a_thread_of_its_own_begins(self, world: World) -> None:
        variables = world.cloud.environment() | {"BANDIT_HOME": str(world.folder / "home"), "PATH": os.environ["PATH"]}
        definition = world.clients.bandit.model_dump_json()
        done = subprocess.run(
            [sys.executable, "-c", THREADS],
            cwd=REPO,
            env=variables | {"BANDIT_DEFINITION": definition, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "heartbeats True" in done.stdout

    def test_that_never_answers_its_health_route_is_not_deployed(self, world: World) -> None:
        ensure_endpoint(world.clients)
        world.clients.publisher.delete_topic(topic=world.clients.names.events_topic)
        world.cloud.vertex.step_environment["BANDIT_NONSENSE"] = "1"
        with pytest.raises(EndpointError, match=r"deploy .* BANDIT_NONSENSE is not a setting"):
            ensure_server(world.clients)
        assert deployed(world) == {}


class TestTheReplicas:
    """Without servers: what load and serve make of their reports."""

    @pytest.fixture
    def reports(self, world: World) -> Reports:
        ensure_endpoint(world.clients)
        return Reports(world)

    def test_its_status_is_told_from_what_replicas_report(self, world: World, reports: Reports) -> None:
        registry = world.registry()
        version = world.register(registry, 1)
        registry.promote(version, None)
        reports.say("a", champion=version, serves=version, loaded=[version])
        found = status_of(world.clients.bandit, world.clients.settings)
        assert (found.registry, found.champion, found.serves, found.status) == (True, version, version, "ok")
        assert (found.server, found.log, found.faults) == ("Vertex AI endpoint test-v1", None, [])

    def test_all_of_them_have_to_load_a_version(self, world: World, reports: Reports) -> None:
        registry, endpoint = world.registry(), world.endpoint()
        version = world.register(registry, 1)
        reports.say("a", loaded=[version])
        reports.say("b", loaded=[])
        with pytest.raises(EndpointError, match=rf"{version} was not loaded within 0 s by 1 of 2 replicas \(b:"):
            endpoint.load(version, timeout_s=0)
        reports.say("b", loaded=[version])
        endpoint.load(version, timeout_s=0)
        with pytest.raises(EndpointError, match="was not served as champion within 0 s by 2 of 2"):
            endpoint.serve(version, timeout_s=0)
        assert endpoint.state()["champion"] is None
        reports.say("a", champion=version, serves=version, loaded=[version])
        reports.say("b", serves="uniform", loaded=[version])
        assert (endpoint.state()["champion"], endpoint.state()["serves"]) == (None, None), "they differ"

    def test_one_that_refuses_is_quoted(self, world: World, reports: Reports) -> None:
        registry = world.registry()
        version = world.register(registry, 1)
        reports.say("a", loaded=[version])
        reports.say("b", loaded=[], refused={version: "probe 3 is off"})
        with pytest.raises(PolicyError, match=rf"the endpoint refused {version}: probe 3 is off \(replica b\)"):
            world.endpoint().load(version)

    def test_one_that_died_is_waited_for_by_nobody(self, world: World, reports: Reports) -> None:
        reports.say("alive", champion="test-v1-0001", loaded=["test-v1-0001"])
        reports.say("dead", champion="test-v1-0000", loaded=[])
        reports.age("dead", timedelta(seconds=70))
        assert list(live(world.clients)) == ["alive"]
        assert world.endpoint().state()["champion"] == "test-v1-0001"

    def test_one_that_says_goodbye_is_gone_and_one_dead_for_days_is_forgotten(
        self, world: World, reports: Reports
    ) -> None:
        reports.say("old", loaded=[])
        reports.age("old", timedelta(days=2))
        reporter = ReplicaReporter(world.clients, "new")
        reporter.report({"champion": None, "challenger": None, "loaded": [], "refused": {}})
        names = [blob.name for blob in world.clients.bucket.list_blobs(prefix="test-v1/endpoint/")]
        assert names == ["test-v1/endpoint/replicas/new.json"]
        reporter.close()
        reporter.close()
        assert live(world.clients) == {}


class TestAModelForEachVersion:
    """deploy_mode=model."""

    def test_is_deployed_beside_the_champion_and_takes_over(self, world: World) -> None:
        acting = world.acting(endpoint={"deploy_mode": "model"})
        ensure_endpoint(acting)
        assert ensure_server(acting) is False
        registry, endpoint = VertexRegistry(acting), world.endpoint(acting)
        one, two, three = (world.register(registry, seed) for seed in (1, 2, 3))
        make_champion(registry, endpoint, one, None)
        assert (answered_by(acting), endpoint.state()["champion"], endpoint.state()["serves"]) == (one, one, one)
        endpoint.load(two)
        assert deployed(world) == {f"{one}@1": 100, f"{two}@2": 0}
        make_champion(registry, endpoint, two, one)
        assert answered_by(acting) == two
        make_champion(registry, endpoint, three, two)
        assert deployed(world) == {f"{two}@2": 0, f"{three}@3": 100}
        assert answered_by(acting) == three
        assert delete_endpoint(acting)
        assert delete_models(acting) == [acting.names.model]

    def test_that_is_damaged_is_refused(self, world: World) -> None:
        acting = world.acting(endpoint={"deploy_mode": "model"})
        ensure_endpoint(acting)
        registry, endpoint = VertexRegistry(acting), world.endpoint(acting)
        damaged = world.register(registry, 1, damaged=True)
        with pytest.raises(PolicyError, match=rf"the endpoint refused {damaged}: .*statistics\.npz"):
            make_champion(registry, endpoint, damaged, None)
        assert (deployed(world), registry.alias("champion")) == ({}, None)

    def test_whose_deployment_got_no_answer_is_waited_for_by_the_next_try(self, world: World) -> None:
        acting = world.acting(endpoint={"deploy_mode": "model"})
        ensure_endpoint(acting)
        registry, endpoint = VertexRegistry(acting), world.endpoint(acting)
        version = world.register(registry, 1)
        world.cloud.faults.add(Fault("DeployModel", code="UNAVAILABLE", after=True))
        with pytest.raises(EndpointError, match="not answered"):
            endpoint.load(version)
        make_champion(registry, endpoint, version, None)
        assert deployed(world) == {f"{version}@1": 100}
