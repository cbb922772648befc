"""Opens the backend that a bandit's YAML names. Nothing is imported before it is needed.

`clients` are the Google clients to use; without them a gcp backend acts as the process's own account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError

if TYPE_CHECKING:
    from rl_core.backends.contracts.bus import MessageBus, Publisher
    from rl_core.backends.contracts.endpoint import Endpoint
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.store import EventStore
    from rl_core.backends.gcp.clients import GoogleClients


def open_publisher(bandit: Bandit, settings: Settings, clients: GoogleClients | None = None) -> Publisher:
    """Open the side of the message bus that the server writes to."""
    if bandit.backend == "gcp":
        from rl_core.backends.gcp.bus.message_bus import PubSubPublisher

        return PubSubPublisher(clients or _clients(bandit, settings))
    return open_bus(bandit, settings)


def open_bus(bandit: Bandit, settings: Settings) -> MessageBus:
    """Open the bus that the event logger reads.

    Raises:
        ConfigError: on gcp, where Pub/Sub pushes to the logger function.
    """
    if bandit.backend != "local":
        raise ConfigError(
            f"{bandit.name}: backend={bandit.backend} has no bus to read: Pub/Sub pushes to the function "
            f"{bandit.artefact_name}-logger; `log` is for backend: local"
        )
    from rl_core.backends.local.bus.bus import LocalBus

    # Another process may keep it locked for as long as an answer may wait for it.
    return LocalBus(settings.state_dir(bandit) / "bus", max(5.0, bandit.serving.publish_deadline_s))


def open_store(bandit: Bandit, settings: Settings, clients: GoogleClients | None = None) -> EventStore:
    """Open the event store."""
    if bandit.backend == "gcp":
        from rl_core.backends.gcp.store.event_store import BigQueryEventStore

        return BigQueryEventStore(clients or _clients(bandit, settings))
    from rl_core.backends.local.store.event_store import DeltaEventStore

    return DeltaEventStore(settings.state_dir(bandit) / "store")


def open_registry(bandit: Bandit, settings: Settings, clients: GoogleClients | None = None) -> PolicyRegistry:
    """Open the policy registry."""
    if bandit.backend == "gcp":
        from rl_core.backends.gcp.registry.policy_registry import VertexRegistry

        return VertexRegistry(clients or _clients(bandit, settings))
    from rl_core.backends.local.registry import FolderRegistry

    return FolderRegistry(settings.state_dir(bandit) / "registry", bandit.artefact_name)


def open_endpoint(bandit: Bandit, settings: Settings, clients: GoogleClients | None = None) -> Endpoint:
    """Open what serves predictions, to hand it policies and ask for its state."""
    if bandit.backend == "gcp":
        from rl_core.backends.gcp.endpoint.endpoint import open_vertex_endpoint

        return open_vertex_endpoint(clients or _clients(bandit, settings))
    from rl_core.backends.local.endpoint import LocalEndpoint

    return LocalEndpoint(settings.state_dir(bandit), open_registry(bandit, settings), settings.server_token)


def _clients(bandit: Bandit, settings: Settings) -> GoogleClients:
    from rl_core.backends.gcp.clients import GoogleClients

    return GoogleClients(bandit, settings)
