"""Opens the backend that a bandit's YAML names. Nothing is imported before it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError

if TYPE_CHECKING:
    from rl_core.backends.base import Endpoint, EventStore, MessageBus, PolicyRegistry


def open_bus(bandit: Bandit, settings: Settings) -> MessageBus:
    _require_local(bandit)
    from rl_core.backends.local.message_bus import SqliteBus

    return SqliteBus(settings.state_dir(bandit) / "bus" / "bus.sqlite")


def open_store(bandit: Bandit, settings: Settings) -> EventStore:
    _require_local(bandit)
    from rl_core.backends.local.event_store import DeltaEventStore

    return DeltaEventStore(settings.state_dir(bandit) / "store")


def open_registry(bandit: Bandit, settings: Settings) -> PolicyRegistry:
    _require_local(bandit)
    from rl_core.backends.local.policy_registry import FolderRegistry

    return FolderRegistry(settings.state_dir(bandit) / "registry", bandit.artefact_name)


def open_endpoint(bandit: Bandit, settings: Settings) -> Endpoint:
    _require_local(bandit)
    from rl_core.backends.local.endpoint import LocalEndpoint

    return LocalEndpoint(settings.state_dir(bandit), open_registry(bandit, settings))


def _require_local(bandit: Bandit) -> None:
    if bandit.backend != "local":
        raise ConfigError(f"{bandit.name}: backend={bandit.backend} is not there yet; set backend: local")
