"""The bundle, unpacked and run by the real functions-framework: Pub/Sub pushes, rows arrive, the rest is refused."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml
from google.pubsub_v1.types import Subscription, UpdateSubscriptionRequest

from rl_core.backends.contracts.bus import Message
from rl_core.backends.gcp.bus.message_bus import PubSubPublisher, publish_joiner_heartbeat
from rl_core.backends.gcp.bus.messages import Event
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.gcp.store.joiner import SqlJoiner
from rl_core.backends.gcp.store.tables import ensure_tables
from rl_core.config import Bandit, Settings
from rl_core.google_cloud.clients import GoogleClients
from rl_core.schema import DECISION
from scripts import functions_bundle
from stand_ins.cloud import Cloud
from stand_ins.faults import Fault
from stand_ins.functions import Functions, push_to
from stand_ins.pubsub import Unruly
from tests.harness.patience import patient, until

pytestmark = pytest.mark.process
AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
SILENT = 3600.0
"""Between the heartbeats of a server that says only its first and its last word."""
STAMPS = {"received_at", "producer", "offset"}


@pytest.fixture(scope="module")
def bandits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of YAMLs: the shipped bandit, and one on Google Cloud."""
    folder = tmp_path_factory.mktemp("bandits")
    shipped = functions_bundle.REPO / "dags" / "bandits" / "movielens.yaml"
    (folder / "movielens.yaml").write_bytes(shipped.read_bytes())
    cloud = {"name": "cloudy", "backend": "gcp", "runner": "vertex", "google": {"project": "test-project"}}
    (folder / "cloudy.yaml").write_text(yaml.safe_dump(yaml.safe_load(shipped.read_text()) | cloud))
    return folder


@pytest.fixture(scope="module")
def bundle(bandits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("functions")
    assert functions_bundle.main(["--out", str(out), "--bandits", str(bandits)]) == 0
    return out / "cloudy.zip"


class TestTheBundle:
    def test_is_made_for_the_bandits_on_google_cloud(self, bundle: Path) -> None:
        assert [path.name for path in bundle.parent.iterdir()] == ["cloudy.zip"]

    def test_has_the_same_bytes_each_time(self, bundle: Path, bandits: Path, tmp_path: Path) -> None:
        functions_bundle.main(["--out", str(tmp_path), "--bandits", str(bandits)])
        assert (tmp_path / "cloudy.zip").read_bytes() == bundle.read_bytes()

    def test_holds_what_the_functions_need_and_no_more(self, bundle: Path) -> None:
        names = zipfile.ZipFile(bundle).namelist()
        assert {"main.py", "requirements.txt", "bandit/cloudy.yaml", "rl_core/backends/gcp/bus/event_sink.py"} <= set(
            names
        )
        others = ("rl_core/stages", "rl_core/policy/saved_model", "rl_core/serving/app", "plugins", "dags", "tests")
        assert not [name for name in names if name.startswith(others)]
        requirements = zipfile.ZipFile(bundle).read("requirements.txt").decode()
        assert "functions-framework==" in requirements
        assert requirements.count("--hash=sha256:") > 100


class World:
    """The logger function, deployed on the stand-ins as Google would: its topic pushes to it."""

    def __init__(self, folder: Path, bundle: Path, bandits: Path, ratings: Path, stack: ExitStack) -> None:
        self.cloud = stack.enter_context(Cloud(folder / "cloud"))
        variables = self.cloud.environment()
        variables |= {"BANDIT_HOME": str(folder / "home"), "BANDIT_MOVIELENS_DIR": str(ratings)}
        self.bandit = Bandit.from_yaml(bandits / "cloudy.yaml")
        settings = Settings(
            google_endpoint=variables["BANDIT_GOOGLE_ENDPOINT"],
            pubsub_emulator_host=variables["BANDIT_PUBSUB_EMULATOR_HOST"],
        )
        self.clients = GoogleClients(self.bandit, settings)
        stack.callback(self.clients.close)
        ensure_tables(self.clients)
        self.store = BigQueryEventStore(self.clients)
        self.clients.publisher.create_topic(name=self.clients.names.events_topic)
        self.clients.publisher.create_topic(name=self.clients.names.simulate_topic)
        self.urls: dict[str, str] = {}
        self.folder = folder / "functions"
        self.functions = Functions(self.folder, lambda *_: bundle.read_bytes(), self._subscribe, lambda: variables)
        stack.callback(self.functions.close)

    def deploy(self, entry_point: str, topic: str) -> str:
        source = {"storageSource": {"bucket": "b", "object": "o"}}
        name = f"projects/test-project/locations/europe-west1/functions/{entry_point.replace('_', '-')}"
        build = {"entryPoint": entry_point, "source": source}
        self.functions.deploy({"name": name, "buildConfig": build, "eventTrigger": {"pubsubTopic": topic}})
        return self.urls[topic]

    def _subscribe(self, name: str, topic: str, url: str) -> None:
        self.urls[topic] = url
        self.subscription = f"projects/test-project/subscriptions/{name}"
        push_to(self.cloud.pubsub.address, self.subscription, topic, url)
        # A function's first event loads its libraries: pushed again meanwhile, it would become two rows.
        patient = Subscription(name=self.subscription, ack_deadline_seconds=600)
        self.clients.subscriber.update_subscription(
            UpdateSubscriptionRequest(subscription=patient, update_mask={"paths": ["ack_deadline_seconds"]})
        )

    def rows(self, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.store.query(f"SELECT * FROM {table}").to_pylist()  # noqa: S608  one of ours
        return found

    def delivered(self) -> bool:
        return self.cloud.pubsub.backlog(self.subscription) == 0


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, bundle: Path, bandits: Path, synthetic_ratings_dir: Path
) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), bundle, bandits, synthetic_ratings_dir, stack)


@pytest.fixture(scope="module")
def logger_url(world: World) -> str:
    return world.deploy("log_event", world.clients.names.events_topic)


def post(url: str, payload: bytes, attributes: dict[str, str]) -> int:
    """A CloudEvent as Eventarc sends it."""
    headers = {
        "ce-id": "1",
        "ce-source": "//pubsub.googleapis.com/projects/test-project/topics/t",
        "ce-specversion": "1.0",
        "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
    }
    message = {"data": base64.b64encode(payload).decode(), "attributes": attributes, "messageId": "1"}
    body = {"message": message, "subscription": "projects/test-project/subscriptions/s"}
    return httpx.post(url, json=body, headers=headers, timeout=patient(60), trust_env=False).status_code


def decision(event_id: str) -> bytes:
    values: dict[str, Any] = {
        "string": "text", "int32": 1, "float64": 0.5, "bool": True, "timestamp": AT.isoformat(),
        "float32[]": [0.5, -1.0], "int32[]": [0, 1], "string[]": ["a"], "map": None,
    }  # fmt: skip
    row = {column.name: values[column.type] for column in DECISION if column.name not in STAMPS}
    return orjson.dumps({**row, "event_id": event_id})


def watermark_after_a_run(world: World) -> tuple[datetime, datetime | None]:
    """The joiner's own heartbeat, and the watermark once it has arrived."""
    at = publish_joiner_heartbeat(world.clients)
    until(world.delivered)
    return at, SqlJoiner(world.bandit, world.store).watermark()


class TestTheLogger:
    def test_writes_what_was_published(self, world: World, logger_url: str) -> None:
        publisher = PubSubPublisher(world.clients, deadline_s=5.0, heartbeat_s=SILENT)
        reward = orjson.dumps({"event_id": "a", "reward": 4.5, "observed_at": AT.isoformat()})
        activation = orjson.dumps({"event_id": "a", "activation": True, "observed_at": AT.isoformat()})
        messages = [Message("rewards", "a", reward), Message("rewards", "a", activation)]
        receipts = publisher.publish([Message("decisions", "a", decision("a")), *messages])
        name = publisher.producer
        publisher.close()
        until(world.delivered)
        [row] = [row for row in world.rows("decisions") if row["producer"] == name]
        assert (row["event_id"], row["offset"], row["received_at"]) == ("a", 1, receipts[0].received_at)
        assert (row["deferred"], row["subject"]) == (True, "text")
        rows = {table: [r for r in world.rows(table) if r["producer"] == name] for table in ("rewards", "activations")}
        assert [(row["reward"], row["offset"]) for row in rows["rewards"]] == [(4.5, 1)]
        assert [(row["event_id"], row["offset"]) for row in rows["activations"]] == [("a", 2)]
        heartbeats = sorted((row for row in world.rows("heartbeats") if row["producer"] == name), key=lambda r: r["at"])
        assert [(row["decisions"], row["rewards"], row["ended"]) for row in heartbeats] == [
            (0, 0, False),
            (1, 2, True),
        ]
        assert all(row["at"] <= row["published_at"] <= row["stored_at"] for row in heartbeats)

    def test_moves_the_watermark_past_a_server_that_said_goodbye(self, world: World, logger_url: str) -> None:
        publisher = PubSubPublisher(world.clients, deadline_s=5.0, heartbeat_s=SILENT)
        publisher.publish([Message("decisions", "w", decision("w"))])
        at, watermark = watermark_after_a_run(world)
        assert watermark is not None
        assert watermark < at, "a living server holds it at what it last said"
        publisher.close()
        at, watermark = watermark_after_a_run(world)
        assert watermark == at

    def test_is_asked_again_until_bigquery_takes_it(self, world: World, logger_url: str) -> None:
        """503s, a lost answer, and Pub/Sub delivering some twice: nothing is lost, and repeats are told apart."""
        world.cloud.pubsub.unruly = Unruly(again=0.3)
        world.cloud.faults.add(Fault("bigquery.tabledata.insertAll", "503", times=2))
        publisher = PubSubPublisher(world.clients, deadline_s=5.0)
        publisher.publish([Message("decisions", f"b{i}", decision(f"b{i}")) for i in range(20)])
        name = publisher.producer
        publisher.close()
        until(world.delivered)
        world.cloud.pubsub.unruly = None
        rows = [row for row in world.rows("decisions") if row["producer"] == name]
        assert {(row["offset"], row["event_id"]) for row in rows} == {(i + 1, f"b{i}") for i in range(20)}

    def test_sets_apart_what_is_no_row(self, world: World, logger_url: str) -> None:
        event = Event("decision", "bus-odd", 7, AT, "odd", b"{}")
        assert post(logger_url, b'{"event_id": 1', event.attributes) == 200
        assert post(logger_url, b"{}", {}) == 200
        rows = {row["producer"]: row for row in world.rows("rejected_events")}
        assert (rows["bus-odd"]["offset"], rows["bus-odd"]["kind"]) == (7, "decision")
        assert rows["bus-odd"]["payload"] == '{"event_id": 1'
        assert rows["bus-odd"]["received_at"] == AT
        assert "no attribute 'kind'" in rows[""]["reason"]

    def test_raises_while_the_store_is_away(self, world: World, logger_url: str) -> None:
        event = Event("decision", "bus-away", 1, AT, "x", b"")
        world.cloud.faults.add(Fault("bigquery.tabledata.insertAll", "403"))
        assert post(logger_url, decision("x"), event.attributes) == 500
        assert post(logger_url, decision("x"), event.attributes) == 200


class TestTheSimulator:
    def test_does_not_take_a_request_it_cannot_serve_for_done(self, world: World) -> None:
        url = world.deploy("simulate", world.clients.names.simulate_topic)
        assert post(url, b'{"decisions": 0}', {}) == 200, "delivered again it would be no better"
        assert post(url, json.dumps({"decisions": 2, "seed": 3}).encode(), {}) == 500
        log = (world.folder / "simulate" / "log.txt").read_text()
        assert "a request for traffic: decisions: Input should be greater than or equal to 1" in log
        assert "EndpointAbsent: no Vertex endpoint movielens-v1" in log
