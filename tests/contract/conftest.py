"""One suite per contract, run over the backends that its module names in BACKENDS; each opens the same three doors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pytest

from rl_core.backends.contracts.bus import Delivery, MessageBus, Publisher, Topic
from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.backends.contracts.store import EventStore, Joiner
from rl_core.config import Bandit, Settings
from rl_core.schema import DECISION_SCHEMA, INTERACTION_SCHEMA, REWARD_APART_SCHEMA, REWARD_SCHEMA

if TYPE_CHECKING:
    from rl_core.backends.gcp.store.event_store import BigQueryEventStore
    from rl_core.google_cloud.clients import GoogleClients
    from tests.delivered_events import DeliveredEvents


class Backend(Protocol):
    """Each call opens another handle on the same state, as another process would."""

    def open_publisher(self) -> Publisher: ...

    def accepted(self, topic: Topic) -> list[Delivery]:
        """Everything that publishers of this backend had acknowledged, by offset; of several producers one by one."""

    def open_bus(self) -> MessageBus: ...

    def open_store(self) -> EventStore: ...

    def open_joiner(self, bandit: Bandit) -> Joiner: ...

    def open_registry(self) -> PolicyRegistry: ...


class LocalBackend:
    def __init__(self, path: Path, handles: ExitStack) -> None:
        self._path = path
        self._handles = handles

    def open_publisher(self) -> Publisher:
        return self.open_bus()

    def accepted(self, topic: Topic) -> list[Delivery]:
        return self.open_bus().read(topic, 0, 1_000_000)

    def open_bus(self) -> MessageBus:
        from rl_core.backends.local.bus.bus import LocalBus

        bus = LocalBus(self._path / "bus")
        self._handles.callback(bus.close)
        return bus

    def open_store(self) -> EventStore:
        from rl_core.backends.local.store.event_store import DeltaEventStore

        return DeltaEventStore(self._path / "store")

    def open_joiner(self, bandit: Bandit) -> Joiner:
        return self.open_store().joiner(bandit)

    def open_registry(self) -> PolicyRegistry:
        from rl_core.backends.local.registry import FolderRegistry

        return FolderRegistry(self._path / "registry", "movielens-v1")


class GcpBackend:
    """The real Google clients, speaking to stand-ins that keep what they are told."""

    def __init__(self, path: Path, handles: ExitStack, bandit: Bandit) -> None:
        from stand_ins.cloud import Cloud

        self.cloud = handles.enter_context(Cloud(path / "cloud"))
        self._bandit = bandit
        self._home = path / "home"
        self._handles = handles

    def clients(self, *services: str) -> GoogleClients:
        """New clients that are led to the stand-ins of these services."""
        from rl_core.google_cloud.clients import GoogleClients

        variables = self.cloud.environment(*services)
        settings = Settings(
            home=self._home,
            google_endpoint=variables.get("BANDIT_GOOGLE_ENDPOINT"),
            pubsub_emulator_host=variables.get("BANDIT_PUBSUB_EMULATOR_HOST"),
        )
        clients = GoogleClients(self._bandit, settings)
        self._handles.callback(clients.close)
        return clients

    def open_publisher(self) -> Publisher:
        from rl_core.backends.gcp.bus.message_bus import PubSubPublisher

        publisher = PubSubPublisher(self.events.clients)
        self._handles.callback(publisher.close)
        return publisher

    def accepted(self, topic: Topic) -> list[Delivery]:
        return [event.delivery for event in self.events.of(topic)]

    @cached_property
    def events(self) -> DeliveredEvents:
        """What Pub/Sub delivers of the topic, from here on."""
        from tests.delivered_events import DeliveredEvents

        return DeliveredEvents(self.clients("pubsub"), self.cloud.pubsub)

    def open_store(self) -> BigQueryEventStore:
        from rl_core.backends.gcp.store.event_store import BigQueryEventStore
        from rl_core.backends.gcp.store.tables import ensure_tables, missing_tables

        clients = self.clients("rest")
        if missing_tables(clients):
            ensure_tables(clients)
        return BigQueryEventStore(clients)

    def open_joiner(self, bandit: Bandit) -> Joiner:
        """`bandit` may differ from the backend's in how it joins."""
        google = {"backend": "gcp", "google": self._bandit.google}
        return self.open_store().joiner(bandit.model_copy(update=google))

    def open_registry(self) -> PolicyRegistry:
        from rl_core.backends.gcp.registry.policy_registry import VertexRegistry

        clients = self.clients("rest", "vertex")
        if not clients.bucket.exists():
            clients.bucket.create(location=clients.names.location)
        return VertexRegistry(clients)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        marks = {"gcp": pytest.mark.emulated}
        names = getattr(metafunc.module, "BACKENDS", ("local",))
        metafunc.parametrize(
            "backend", [pytest.param(name, marks=marks.get(name, ())) for name in names], indirect=True
        )


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path, cloud_movielens: Bandit) -> Iterator[Any]:
    with ExitStack() as handles:
        if request.param == "gcp":
            yield GcpBackend(tmp_path, handles, cloud_movielens)
        else:
            yield LocalBackend(tmp_path, handles)


@pytest.fixture
def publisher(backend: Backend) -> Publisher:
    return backend.open_publisher()


@pytest.fixture
def bus(backend: Backend) -> MessageBus:
    return backend.open_bus()


@pytest.fixture
def store(backend: Backend) -> EventStore:
    return backend.open_store()


@pytest.fixture
def registry(backend: Backend) -> PolicyRegistry:
    return backend.open_registry()


class Rows:
    """Rows that satisfy the log's schema; every value differs from row to row where it may."""

    START = datetime(2026, 1, 1, tzinfo=UTC)

    def decisions(self, count: int, producer: str = "bus-1", after: int = 0) -> pa.Table:
        return self._table(DECISION_SCHEMA, count, producer, after)

    def rewards(self, count: int, producer: str = "bus-1", after: int = 0) -> pa.Table:
        return self._table(REWARD_SCHEMA, count, producer, after)

    def apart(self, count: int, producer: str = "bus-1", after: int = 0) -> pa.Table:
        return self._table(REWARD_APART_SCHEMA, count, producer, after)

    def interactions(self, count: int, after: int = 0) -> pa.Table:
        return self._table(INTERACTION_SCHEMA, count, "bus-1", after)

    def _table(self, schema: pa.Schema, count: int, producer: str, after: int) -> pa.Table:
        numbers = range(after + 1, after + count + 1)
        return pa.table([[self._value(f, producer, n) for n in numbers] for f in schema], schema=schema)

    def _value(self, field: pa.Field, producer: str, n: int) -> Any:
        if field.name in ("offset", "seq"):
            return n
        if field.name == "producer":
            return producer
        if field.nullable and n % 2 == 0:
            return None
        if field.name == "activation":
            return n % 3 == 0
        if field.type == pa.timestamp("us", tz="UTC"):
            return self.START + timedelta(microseconds=1_000_003 * n)
        values = {
            pa.string(): f"{field.name}-{n:04d} é'\"",
            pa.int32(): n % 7,
            pa.float64(): n / 3,
            pa.bool_(): n % 3 > 0,
            pa.list_(pa.float32()): [n / 3, -0.0, 1e-30],
            pa.list_(pa.int32()): list(range(n % 4)),
            pa.list_(pa.string()): [f"{field.name}-{m} é'\"" for m in range(n % 4)],
            pa.map_(pa.string(), pa.string()): [("why", f"{n}")],
        }
        return values[field.type]


@pytest.fixture
def rows() -> Rows:
    return Rows()
