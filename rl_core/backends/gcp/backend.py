"""The backend on Google Cloud: Pub/Sub, BigQuery, Cloud Storage and Vertex AI, all under one identity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rl_core.backends.contracts.backend import Backend, JoinReport, Line
from rl_core.config import Bandit, Settings
from rl_core.google_cloud.clients import GoogleClients

if TYPE_CHECKING:
    import pyarrow as pa
    from google.auth.credentials import Credentials

    from rl_core.backends.contracts.bus import Publisher, Sink
    from rl_core.backends.contracts.endpoint import Endpoint
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.server_side import ServerSide
    from rl_core.backends.gcp.provisioning.provisioner import CloudProvisioner
    from rl_core.backends.gcp.store.event_store import BigQueryEventStore


class GoogleBackend(Backend):
    """`Backend` in the project of the bandit's section `google`."""

    PARTS = ("storage", "messaging", "identities", "functions", "endpoint")
    JOINED_BY_DAG = True
    CHECKS_CALLERS = True

    def __init__(self, bandit: Bandit, settings: Settings, credentials: Credentials | None = None) -> None:
        super().__init__(bandit, settings)
        self.clients = GoogleClients(bandit, settings, credentials)

    def publisher(self) -> Publisher:
        from rl_core.backends.gcp.bus.message_bus import PubSubPublisher

        # Imported before the publisher's thread does: two threads that import Google's libraries at once can lock each
        # other out, and then a server ended with a _DeadlockError.
        _ = self.clients.publisher
        return PubSubPublisher(self.clients)

    def sink(self) -> Sink:
        from rl_core.backends.gcp.bus.event_sink import EventSink

        return EventSink(self.store())

    def store(self) -> BigQueryEventStore:
        from rl_core.backends.gcp.store.event_store import BigQueryEventStore

        return BigQueryEventStore(self.clients)

    def join(self) -> JoinReport:
        """Join once, after a heartbeat of its own through the bus.

        What arrives of it shows how far delivery works, by which a silent server is told from a delayed one.
        """
        from rl_core.backends.gcp.bus.message_bus import publish_joiner_heartbeat

        publish_joiner_heartbeat(self.clients)
        store = self.store()
        joiner = store.joiner(self.bandit)
        watermark = joiner.watermark()
        run = joiner.run(watermark)
        return JoinReport(run, watermark, tuple(str(gap) for gap in joiner.gaps()), store.bytes_scanned)

    def registry(self) -> PolicyRegistry:
        from rl_core.backends.gcp.registry.policy_registry import VertexRegistry

        return VertexRegistry(self.clients)

    def endpoint(self) -> Endpoint:
        from rl_core.backends.gcp.endpoint.endpoint import open_vertex_endpoint

        return open_vertex_endpoint(self.clients)

    def line(self) -> Line:
        from rl_core.backends.gcp.endpoint.raw_predict import over_vertex

        return Line(f"Vertex AI endpoint {self.clients.names.endpoint}", over_vertex(self.clients))

    def server_side(self) -> ServerSide:
        from rl_core.backends.gcp.endpoint.server_side import VertexServerSide

        return VertexServerSide(self.clients)

    def provisioner(self, runtime_account: str | None = None, bundle: Path | None = None) -> CloudProvisioner:
        from rl_core.backends.gcp.provisioning.provisioner import CloudProvisioner
        from rl_core.backends.gcp.provisioning.resource import Site

        return CloudProvisioner(Site(self.bandit, self.clients, runtime_account, bundle))

    def read_table(self, place: str) -> pa.Table:
        from rl_core.backends.gcp.store.foreign_table import read

        return read(self.clients, place)

    def ask_for_traffic(self, request: Mapping[str, int | None]) -> str:
        from rl_core.backends.gcp.simulate_topic import ask_for_traffic

        return f"{self.clients.names.simulate_topic} (message {ask_for_traffic(self.clients, request)})"

    def close(self) -> None:
        self.clients.close()
