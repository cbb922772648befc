"""The parts of a prediction server, opened for this machine or for Google Cloud."""

from __future__ import annotations

import secrets
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rl_core.backends import open_publisher, open_registry
from rl_core.backends.contracts.bus import Publisher
from rl_core.config import Bandit, ServingContainer, Settings
from rl_core.errors import ConfigError
from rl_core.files import locked, write_atomically
from rl_core.serving.policies import OneArtefact, Policies, RegistryWatcher
from rl_core.serving.replica_reports import Reporter

if TYPE_CHECKING:
    from rl_core.backends.gcp.clients import GoogleClients

SALT_BYTES = 32


@dataclass(frozen=True)
class Parts:
    """What the server is put together from.

    Args:
        salt: the endpoint's secret, made once: an event id keeps its draw over restarts and replicas.
        announce_in: the state folder in which to say where the server listens.
        reporter: writes the server's state down where nobody can ask it.
    """

    policies: Policies
    bus: Publisher
    salt: bytes
    announce_in: Path | None = None
    reporter: Reporter | None = None


@contextmanager
def opened(bandit: Bandit, settings: Settings, container: ServingContainer) -> Iterator[Parts]:
    """Open a server's parts and close them at the end. Raises BanditError where one of them can't be had."""
    with (_on_google_cloud if bandit.backend == "gcp" else _on_this_machine)(bandit, settings, container) as parts:
        try:
            yield parts
        finally:
            parts.bus.close()


@contextmanager
def _on_this_machine(bandit: Bandit, settings: Settings, container: ServingContainer) -> Iterator[Parts]:
    state_dir = settings.state_dir(bandit)
    if container.remote_artefact is not None:
        raise ConfigError(
            f"AIP_STORAGE_URI={container.remote_artefact!r}: a bandit with backend: local serves only a path or file://"
        )
    policies: Policies
    if container.artefact is not None:
        policies = OneArtefact(container.artefact, bandit.problem, settings.policy_version)
    else:
        policies = RegistryWatcher(open_registry(bandit, settings), bandit.problem)
    yield Parts(policies, open_publisher(bandit, settings), _local_salt(state_dir), announce_in=state_dir)


@contextmanager
def _on_google_cloud(bandit: Bandit, settings: Settings, container: ServingContainer) -> Iterator[Parts]:
    from rl_core.backends.gcp.clients import GoogleClients
    from rl_core.backends.gcp.endpoint.replicas import ReplicaReporter
    from rl_core.backends.gcp.endpoint.salt import shared_salt

    clients = GoogleClients(bandit, settings)
    try:
        # Both import Google's libraries, and before the publisher's thread does: two threads that import them at once
        # can lock each other out, and then the server ended with a _DeadlockError.
        salt, _ = shared_salt(clients, SALT_BYTES), clients.publisher
        yield Parts(
            _policies(bandit, settings, container, clients),
            open_publisher(bandit, settings, clients),
            salt,
            reporter=ReplicaReporter(clients, f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"),
        )
    finally:
        clients.close()


def _policies(bandit: Bandit, settings: Settings, container: ServingContainer, clients: GoogleClients) -> Policies:
    if container.remote_artefact is not None:
        from rl_core.backends.gcp.artefacts import download

        name = settings.policy_version or container.remote_artefact.rstrip("/").rpartition("/")[2]
        into = settings.state_dir(bandit) / "endpoint" / "artefacts" / name
        return OneArtefact(download(clients, container.remote_artefact, into), bandit.problem, settings.policy_version)
    if container.artefact is not None:
        return OneArtefact(container.artefact, bandit.problem, settings.policy_version)
    poll_s = clients.names.google.endpoint.poll_s
    return RegistryWatcher(open_registry(bandit, settings, clients), bandit.problem, poll_s)


def _local_salt(state_dir: Path) -> bytes:
    path = state_dir / "endpoint" / "salt"
    with locked(path.with_name("salt.lock"), "the endpoint's secret"):
        if not path.exists():
            write_atomically(path, secrets.token_bytes(SALT_BYTES))
        salt = path.read_bytes()
    if len(salt) != SALT_BYTES:
        raise ConfigError(f"{path} holds {len(salt)} bytes, a salt has {SALT_BYTES}; remove it and a new one is made")
    return salt
