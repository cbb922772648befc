"""The server's application over a real bus and registry: answers, the log, idempotency, and what it does in trouble."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from rl_core.backends.contracts.bus import Message, Receipt
from rl_core.backends.contracts.registry import Lineage
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.registry import FolderRegistry
from rl_core.bandit.exploration import choose, draw_uniform
from rl_core.bandit.linucb import accumulate
from rl_core.config import Bandit, ServingContainer
from rl_core.dataset.row_rules import COLUMNS
from rl_core.dataset.validation import Validation
from rl_core.errors import BusError
from rl_core.policy.artefact import Policy, write_artefact
from rl_core.schema import DECISION, INTERACTION_SCHEMA, REWARD, Column
from rl_core.serving.parts import Parts
from rl_core.serving.policies import RegistryWatcher
from rl_core.serving.server import application
from tests.harness.patience import patient, until

SALT = b"salt of the test"
OBSERVATION = [0.5, -1.0, 2.0]
STAMPED = {"received_at", "producer", "offset"}
TRAINED = pa.schema([INTERACTION_SCHEMA.field(name) for name in COLUMNS])


class TroubledBus(LocalBus):
    """A bus whose disk can be slow, stuck or full for a while."""

    delay_s = 0.0
    full = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.entered, self._release = threading.Event(), threading.Event()
        self._release.set()
        self.look_up, self.looks_up = threading.Event(), threading.Event()
        self.look_up.set()

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """What is published meanwhile, which `entered` tells, is taken afterwards; after 20 s anyway."""
        self.entered.clear()
        self._release.clear()
        try:
            yield
        finally:
            self._release.set()

    def publish(self, messages: Sequence[Message]) -> list[Receipt]:
        time.sleep(self.delay_s)
        self.entered.set()
        self._release.wait(patient(20))
        if self.full:
            raise BusError("the disk is full; free some space")
        return super().publish(messages)

    def lookup(self, key: str) -> bytes | None:
        if self.full:
            raise BusError("the disk is full; free some space")
        self.looks_up.set()
        self.look_up.wait(patient(60))
        return super().lookup(key)


class World:
    """A bandit's registry and bus, and clients of applications over them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.registry = FolderRegistry(folder / "registry", "test-v1")
        self.bus = TroubledBus(folder / "bus")
        stack.callback(self.bus.close)

    def bandit(self, **serving: Any) -> Bandit:
        problem = {
            "observation_dim": 3,
            "observation_version": "test-k3",
            "actions": ["a", "b", "c", "d"],
            "action_set_version": "test-4",
            "reward_min": 0,
            "reward_max": 5,
            "reward_default": 0,
        }
        startup = {"source": "log"}
        fields = {"name": "test", "prefix": "test", "pipe_version": "v1", "problem": problem, "startup": startup}
        return Bandit.model_validate(
            {**fields, "serving": {"epsilon": 0.2, "max_body_bytes": 4096, "publish_deadline_s": 20.0, **serving}}
        )

    def register(self, seed: int = 1) -> str:
        rng, bandit = np.random.default_rng(seed), self.bandit()
        observations = rng.standard_normal((200, 3)).astype(np.float32)
        statistics = accumulate(observations, rng.integers(4, size=200), rng.standard_normal(200), 4)
        artefact = self._folder / f"artefact-{seed}"
        write_artefact(artefact, bandit.problem, bandit.agent, statistics)
        return self.registry.register(artefact, Lineage(None, ()))

    def promote(self, seed: int = 1) -> str:
        version = self.register(seed)
        self.registry.promote(version, self.registry.alias("champion"))
        return version

    def client(self, container: ServingContainer | None = None, **serving: Any) -> TestClient:
        bandit = self.bandit(**serving)
        watcher = RegistryWatcher(self.registry, bandit.problem)
        app = application(bandit, container or ServingContainer(), Parts(watcher, self.bus, SALT))
        return self._stack.enter_context(TestClient(app, raise_server_exceptions=False))

    def logged(self, topic: Any = "decisions") -> list[dict[str, Any]]:
        return [orjson.loads(delivery.payload) for delivery in self.bus.read(topic, 0)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def ask(client: TestClient, *event_ids: str | None, **fields: Any) -> list[dict[str, Any]]:
    instances = [{"observation": OBSERVATION, **({"event_id": e} if e else {}), **fields} for e in event_ids or (None,)]
    response = client.post("/predict", json={"instances": instances})
    assert response.status_code == 200, response.text
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


def insist(client: TestClient, path: str, content: dict[str, Any]) -> None:
    """Send it until it is taken: with so short a deadline as trouble wants, even a healthy bus may miss it."""
    deadline = time.monotonic() + patient(30)
    while (response := client.post(path, json=content)).status_code == 503:
        assert time.monotonic() < deadline
    assert response.status_code == 200, response.text


def required(columns: Sequence[Column]) -> set[str]:
    return {column.name for column in columns if not column.nullable} - STAMPED


class TestAnAnswer:
    def test_is_the_policys_choice_with_the_exact_propensity(self, world: World) -> None:
        version = world.promote()
        [answer] = ask(world.client(), "order-1")
        scores = Policy.load(world.registry.path(version)).scores(np.array([OBSERVATION], dtype=np.float32))[0]
        action, propensity = choose(scores, None, 0.2, draw_uniform(SALT, "order-1"))
        assert answer == {
            "event_id": "order-1",
            "action_id": "abcd"[action],
            "propensity": propensity,
            "policy_version": version,
        }

    def test_is_on_the_bus_with_every_column_that_the_log_wants(self, world: World) -> None:
        world.promote()
        [answer] = ask(world.client())
        [row] = world.logged()
        assert required(DECISION) <= set(row) <= {column.name for column in DECISION} - STAMPED
        assert {name: row[name] for name in answer} == answer
        assert row["observation"] == OBSERVATION
        assert row.keys().isdisjoint(("action", "eligible_actions")), "an index means nothing outside of arrays"
        assert (row["epsilon"], row["source"], row["served"]) == (0.2, "client", True)

    def test_is_among_the_eligible_actions_with_their_share_of_epsilon(self, world: World) -> None:
        world.promote()
        client = world.client()
        answers = ask(client, *(f"e{i}" for i in range(40)), eligible_actions=["d", "b"])
        assert {answer["action_id"] for answer in answers} == {"b", "d"}
        assert {round(answer["propensity"], 12) for answer in answers} == {0.9, 0.1}
        for row in world.logged():
            u = draw_uniform(SALT, row["event_id"])
            scores = Policy.load(world.registry.path(row["policy_version"])).scores(np.array([OBSERVATION], np.float32))
            action, propensity = choose(scores[0], [1, 3], 0.2, u)
            assert (row["action_id"], row["propensity"]) == ("abcd"[action], propensity)
            assert row["eligible_action_ids"] == ["b", "d"]

    def test_is_logged_with_the_ids_that_could_be_chosen_until_a_policy_was_trained_with_the_list(
        self, world: World
    ) -> None:
        client = world.client()
        ask(client, "before any policy")
        world.promote()
        until(lambda: client.get("/state").json()["serves"] != "uniform")
        ask(client, "its policy knows the list")
        both = [{"observation": OBSERVATION, "event_id": f"beside-{i}"} for i in range(2)]
        client.post("/predict", json={"instances": [{**both[0], "eligible_actions": ["a"]}, both[1]]})
        assert [row.get("eligible_action_ids") for row in world.logged()] == [[*"abcd"], None, ["a"], None]

    def test_carries_the_source_into_the_log(self, world: World) -> None:
        world.promote()
        content = {"instances": [{"observation": OBSERVATION}], "parameters": {"source": "simulator"}}
        assert world.client().post("/predict", json=content).status_code == 200
        assert world.logged()[0]["source"] == "simulator"


class TestTheSameEventIdAgain:
    def test_gets_the_same_answer_whatever_is_asked(self, world: World) -> None:
        world.promote()
        client = world.client()
        first = ask(client, "x")
        again = client.post(
            "/predict", json={"instances": [{"observation": [9, 9, 9], "event_id": "x", "eligible_actions": ["c"]}]}
        )
        assert again.json()["predictions"] == first
        assert len(world.logged()) == 1

    @pytest.mark.parametrize("durability", ["durable", "best_effort"])
    def test_gets_it_from_a_new_server_with_another_policy(self, world: World, durability: str) -> None:
        world.promote(1)
        first = ask(world.client(durability=durability), "x")
        until(lambda: len(world.logged()) == 1)
        world.promote(2)
        assert ask(world.client(durability=durability), "x") == first

    @pytest.mark.parametrize("durability", ["durable", "best_effort"])
    def test_gets_it_within_one_request(self, world: World, durability: str) -> None:
        world.promote()
        answers = ask(world.client(durability=durability), "x", "y", "x")
        assert answers[0] == answers[2] != answers[1]
        until(lambda: len(world.logged()) == 2)

    def test_gets_it_when_both_arrive_at_once(self, world: World) -> None:
        world.promote()
        client = world.client()
        world.bus.delay_s = 0.05
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: ask(client, "x"), range(8)))
        assert all(answer == answers[0] for answer in answers)
        assert len(world.logged()) == 1


class TestABadRequest:
    @pytest.mark.parametrize("route", ["/predict", "/reward"])
    def test_is_refused_as_a_whole_and_nothing_of_it_is_logged(self, world: World, route: str) -> None:
        world.promote()
        good, bad = {"observation": OBSERVATION}, {"observation": [1]}
        content = (
            {"instances": [good, bad], "rewards": []}
            if route == "/predict"
            else {"rewards": [{"event_id": "a", "reward": 9}]}
        )
        response = world.client().post(route, json=content)
        assert response.status_code == 400
        assert list(response.json()) == ["error"]
        assert world.logged() == world.logged("rewards") == []

    def test_with_too_long_a_body_is_413(self, world: World) -> None:
        world.promote()
        client = world.client()
        for size in (4097, 8193, 10_000_000):
            response = client.post("/predict", content=b" " * size)
            assert response.status_code == 413
            assert "serving.max_body_bytes is 4096" in response.json()["error"]
        assert client.post("/predict", content=b" " * 4096).status_code == 400

    def test_with_another_method_or_route_gets_an_error_of_the_same_form(self, world: World) -> None:
        client = world.client()
        assert client.get("/predict").status_code == 405
        assert client.get("/predict").json() == {"error": "/predict does not take GET; it takes POST"}
        assert client.get("/nowhere").status_code == 404
        assert client.get("/nowhere").json() == {"error": "no route /nowhere; GET / lists the routes"}


class TestRewards:
    def test_are_on_the_bus_when_they_are_acknowledged(self, world: World) -> None:
        response = world.client().post(
            "/reward", json={"rewards": [{"event_id": "a", "reward": 1}, {"event_id": "b", "reward": 5}]}
        )
        assert (response.status_code, response.json()) == (200, {"accepted": 2})
        rows = world.logged("rewards")
        assert [(row["event_id"], row["reward"]) for row in rows] == [("a", 1.0), ("b", 5.0)]
        assert set(rows[0]) == required(REWARD)

    def test_are_taken_by_the_predict_route_too(self, world: World) -> None:
        client = world.client()
        response = client.post("/predict", json={"rewards": [{"event_id": "a", "reward": 1}]})
        assert (response.status_code, response.json()) == (200, {"accepted": 1})
        assert [row["event_id"] for row in world.logged("rewards")] == ["a"]
        both = client.post("/predict", json={"rewards": [], "instances": []})
        assert both.status_code == 400
        assert 'the body has "instances", which is unknown; the fields are rewards' in both.json()["error"]
        assert client.get("/state").json()["latency"] is None


class TestAColdStart:
    """No champion was ever named: every eligible action has the same chance, and the log says so."""

    def test_answers_uniformly_with_exact_propensities(self, world: World) -> None:
        client = world.client()
        answers = ask(client, *(f"e{i}" for i in range(40)))
        assert {answer["action_id"] for answer in answers} == {*"abcd"}
        assert {answer["propensity"] for answer in answers} == {1 / 4}
        assert {answer["policy_version"] for answer in answers} == {"uniform"}
        some = ask(client, *(f"f{i}" for i in range(40)), eligible_actions=[*"dab"])
        assert {answer["action_id"] for answer in some} == {*"abd"}
        assert {answer["propensity"] for answer in some} == {1 / 3}
        [only] = ask(client, "g", eligible_actions=["c"])
        assert (only["action_id"], only["propensity"]) == ("c", 1)

    def test_logs_rows_that_may_train(self, world: World) -> None:
        client = world.client()
        ask(client, *(f"e{i}" for i in range(20)))
        ask(client, *(f"f{i}" for i in range(20)), eligible_actions=["d", "b"])
        rows = world.logged()
        assert required(DECISION) <= set(rows[0]) <= {column.name for column in DECISION} - STAMPED
        assert {(row["policy_version"], row["epsilon"], row["served"]) for row in rows} == {("uniform", 1.0, True)}
        closed = [{**row, "seq": seq, "reward": 1.0} for seq, row in enumerate(rows, 1)]
        table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in closed], schema=TRAINED)
        validation = Validation(world.bandit(), registered=[])
        assert len(validation.check(table).rows.action) == 40
        assert validation.apart == {}

    @pytest.mark.parametrize("durability", ["durable", "best_effort"])
    def test_gives_the_first_answer_again_also_once_there_is_a_policy(self, world: World, durability: str) -> None:
        client = world.client(durability=durability)
        first = ask(client, "x", "y", "x")
        assert first[0] == first[2]
        until(lambda: len(world.logged()) == 2)
        world.promote()
        until(lambda: client.get("/health").json()["status"] == "ok")
        assert ask(client, "x", "y", "x") == first
        assert ask(world.client(durability=durability), "x", "y", "x") == first

    def test_is_seen_in_health_state_and_metrics(self, world: World) -> None:
        client = world.client()
        health = client.get("/health")
        told = {"status": "cold start", "champion": None, "serves": "uniform", "durability": "durable"}
        assert (health.status_code, health.json()) == (200, told)
        assert {name: client.get("/state").json()[name] for name in ("serves", "champion")} == {
            "serves": "uniform",
            "champion": None,
        }
        assert policies_in_metrics(client) == ['banditloop_policy{role="serves",version="uniform"} 1.0']

    def test_ends_with_the_first_champion_without_a_restart(self, world: World) -> None:
        client = world.client()
        ask(client)
        version = world.register()
        world.registry.stage(version)
        until(lambda: client.get("/state").json()["challenger"] == version)
        assert ask(client)[0]["policy_version"] == "uniform", "a challenger does not serve"
        world.registry.promote(version, None)
        until(lambda: ask(client)[0]["policy_version"] == version)
        told = {"status": "ok", "champion": version, "serves": version, "durability": "durable"}
        assert client.get("/health").json() == told
        assert policies_in_metrics(client) == [
            f'banditloop_policy{{role="{role}",version="{version}"}} 1.0' for role in ("champion", "serves")
        ]
        first, last = world.logged()[0], world.logged()[-1]
        assert (first["policy_version"], first["epsilon"]) == ("uniform", 1.0)
        assert (last["policy_version"], last["epsilon"]) == (version, 0.2)

    def test_is_refused_where_the_bandit_wants_that(self, world: World) -> None:
        client = world.client(cold_start="refuse")
        refused(world, client, "test has no policy yet and serving.cold_start is refuse: run its startup")
        version = world.promote()
        until(lambda: client.get("/health").status_code == 200)
        assert ask(client)[0]["policy_version"] == version

    def test_is_healthy_to_vertex_though_refused_since_startup_deploys_first(self, world: World) -> None:
        client = world.client(ServingContainer(http_port=8080), cold_start="refuse")
        assert (client.get("/health").status_code, client.get("/health").json()["status"]) == (200, "no policy")

    def test_is_none_where_a_champion_was_named_that_can_not_be_loaded(self, world: World) -> None:
        statistics = world.registry.path(world.promote()) / "statistics.npz"
        statistics.write_bytes(statistics.read_bytes()[:-1] + b"x")
        refused(world, world.client(), "test has no champion loaded: see `refused` in /state")

    def test_is_none_where_the_registry_can_not_be_read(self, world: World) -> None:
        world.promote()
        (world.registry.path("test-v1-0001").parents[1] / "registry.json").write_text("no JSON")
        refused(world, world.client(), "test has no champion loaded")


def refused(world: World, client: TestClient, why: str) -> None:
    """Predictions and health are 503, the state is shown, nothing is logged."""
    response = client.post("/predict", json={"instances": [{"observation": OBSERVATION}]})
    assert response.status_code == 503
    assert why in response.json()["error"]
    assert response.headers["retry-after"] == "1"
    health = client.get("/health")
    assert (health.status_code, health.json()["status"], health.json()["serves"]) == (503, "no policy", None)
    assert (client.get("/state").json()["champion"], client.get("/state").json()["serves"]) == (None, None)
    assert policies_in_metrics(client) == []
    assert world.logged() == []


def policies_in_metrics(client: TestClient) -> list[str]:
    return [line for line in client.get("/metrics").text.splitlines() if line.startswith("banditloop_policy{")]


class TestPolicies:
    def test_a_new_champion_is_swapped_in_and_its_predecessor_kept(self, world: World) -> None:
        first = world.promote(1)
        client = world.client()
        second = world.register(2)
        world.registry.stage(second)
        until(lambda: client.get("/state").json()["challenger"] == second)
        assert ask(client)[0]["policy_version"] == first, "a challenger does not serve"
        world.registry.promote(second, first)
        until(lambda: ask(client)[0]["policy_version"] == second)
        assert client.get("/state").json()["loaded"] == [first, second]

    def test_a_damaged_one_is_refused_with_its_reason_and_the_champion_serves_on(self, world: World) -> None:
        first = world.promote(1)
        client = world.client()
        second = world.register(2)
        statistics = world.registry.path(second) / "statistics.npz"
        statistics.write_bytes(statistics.read_bytes()[:-1] + b"x")
        world.registry.promote(second, first)
        until(lambda: second in client.get("/state").json()["refused"])
        state = client.get("/state").json()
        assert "sha256" in state["refused"][second]
        assert state["champion"] == ask(client)[0]["policy_version"] == first


class TestWhenTheBusIsInTrouble:
    def test_a_slow_one_gives_503_in_time_and_the_retry_is_answered(self, world: World) -> None:
        world.promote()
        client = world.client(publish_deadline_s=1.0)
        content = {"instances": [{"observation": OBSERVATION, "event_id": "x"}]}
        with world.bus.stuck():
            response = client.post("/predict", json=content)
            assert response.status_code == 503, "and not what the bus would have answered in the end"
        assert "publish_deadline_s=1 s" in response.json()["error"]
        until(lambda: len(world.logged()) == 1)
        until(lambda: client.get("/state").json()["undelivered"] == 1)
        insist(client, "/predict", content)
        assert len(world.logged()) == 1

    def test_what_gave_up_before_its_transaction_began_is_withdrawn(self, world: World) -> None:
        world.promote()
        client = world.client(publish_deadline_s=1.0)

        def post(event_id: str) -> int:
            return client.post(
                "/predict", json={"instances": [{"observation": OBSERVATION, "event_id": event_id}]}
            ).status_code

        with world.bus.stuck(), ThreadPoolExecutor(1) as pool:
            holding = pool.submit(post, "in the transaction")
            assert world.bus.entered.wait(patient(10))
            assert post("waiting") == 503
            assert holding.result() == 503
        insist(client, "/reward", {"event_id": "in a later transaction", "reward": 1})
        until(lambda: [row["event_id"] for row in world.logged()] == ["in the transaction"])
        assert client.get("/state").json()["undelivered"] == 1

    def test_a_full_disk_gives_503_and_shows_in_the_state(self, world: World) -> None:
        world.promote()
        client = world.client()
        world.bus.full = True
        response = client.post("/predict", json={"instances": [{"observation": OBSERVATION}]})
        assert response.status_code == 503
        assert "disk is full" in response.json()["error"]
        assert "disk is full" in client.get("/state").json()["bus_error"]
        world.bus.full = False
        ask(client)
        assert client.get("/state").json()["bus_error"] is None

    def test_best_effort_answers_all_the_same_and_says_so(self, world: World) -> None:
        world.promote()
        client = world.client(durability="best_effort")
        world.bus.full = True
        response = client.post("/predict", json={"instances": [{"observation": OBSERVATION}]})
        assert (response.status_code, response.json()["durability"]) == (200, "best_effort")
        until(lambda: client.get("/state").json()["lost"] == 1)

    def test_best_effort_does_not_guess_whether_an_event_id_was_answered_before(self, world: World) -> None:
        world.promote()
        client = world.client(durability="best_effort")
        world.bus.full = True
        body = {"instances": [{"observation": OBSERVATION, "event_id": "x"}]}
        response = client.post("/predict", json=body)
        assert response.status_code == 503
        assert "send this again with the same event_id" in response.json()["error"]
        assert client.get("/state").json()["defects"] == 0
        world.bus.full = False
        assert client.post("/predict", json=body).status_code == 200

    def test_best_effort_answers_others_while_an_event_id_is_looked_up(self, world: World) -> None:
        world.promote()
        client = world.client(durability="best_effort")
        world.bus.look_up.clear()
        body = {"instances": [{"observation": OBSERVATION, "event_id": "x"}]}
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(client.post, "/predict", json=body)
            world.bus.looks_up.wait(patient(60))
            assert client.post("/predict", json={"instances": [{"observation": OBSERVATION}]}).status_code == 200
            assert not slow.done()
            world.bus.look_up.set()
            assert slow.result().status_code == 200


class TestViews:
    def test_vertex_names_the_routes(self, world: World) -> None:
        version = world.promote()
        client = world.client(ServingContainer(health_route="/alive", predict_route="/v1/endpoints/1:predict"))
        assert client.get("/alive").json()["champion"] == version
        response = client.post("/v1/endpoints/1:predict", json={"instances": [{"observation": OBSERVATION}]})
        assert response.status_code == 200
        assert client.get("/").json()["routes"]["predict"] == "POST /v1/endpoints/1:predict"

    def test_openapi_describes_requests_answers_and_refusals(self, world: World) -> None:
        paths = world.client().get("/openapi.json").json()["paths"]
        predict = paths["/predict"]["post"]
        body = predict["requestBody"]["content"]["application/json"]["schema"]
        assert [one["$ref"].rpartition("/")[2] for one in body["anyOf"]] == ["PredictBody", "Rewards", "Activations"]
        assert set(predict["responses"]) == {"200", "400", "408", "413", "431", "4XX", "503"}
        assert set(paths) == {"/", "/predict", "/reward", "/activate", "/health", "/state", "/metrics"}

    def test_state_and_metrics_count(self, world: World) -> None:
        world.promote()
        client = world.client()
        ask(client, "x", "y")
        ask(client, "x")
        client.post("/predict", content=b"no")
        client.post("/reward", json={"event_id": "x", "reward": 1})
        state = client.get("/state").json()
        counted = {name: state[name] for name in ("requests", "decisions", "repeated", "rewards", "refused_requests")}
        assert counted == {"requests": 4, "decisions": 2, "repeated": 1, "rewards": 1, "refused_requests": 1}
        assert state["latency"]["p50_ms"] > 0
        assert "banditloop_decisions_total 2.0\n" in client.get("/metrics").text

    def test_latencies_are_a_histogram_whose_buckets_sum_over_replicas(self, world: World) -> None:
        world.promote()
        replicas = [world.client(), world.client()]
        for replica, asked in zip(replicas, (2, 1), strict=True):
            for number in range(asked):
                ask(replica, f"{asked}-{number}")
        summed: Counter[str] = Counter()
        for replica in replicas:
            families = {one.name: one for one in text_string_to_metric_families(replica.get("/metrics").text)}
            latency = families["banditloop_predict_latency_seconds"]
            assert latency.type == "histogram"
            counts = {one.labels["le"]: one.value for one in latency.samples if one.name.endswith("_bucket")}
            assert list(counts.values()) == sorted(counts.values())
            summed.update(counts)
        assert summed["+Inf"] == 3

    @pytest.mark.parametrize("durability", ["durable", "best_effort"])
    def test_metrics_say_whether_answers_wait_for_the_log(self, world: World, durability: str) -> None:
        told = world.client(durability=durability).get("/metrics").text.splitlines()
        assert [line for line in told if line.startswith("banditloop_durability")] == [
            f'banditloop_durability{{mode="{durability}"}} 1.0'
        ]
        assert "# TYPE banditloop_durability gauge" in told
        assert any(line.startswith("# HELP banditloop_durability ") for line in told)
