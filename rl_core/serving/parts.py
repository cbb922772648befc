"""The parts of a prediction server, opened from its bandit's backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from rl_core.backends import open_backend
from rl_core.backends.contracts.backend import Backend
from rl_core.backends.contracts.bus import Publisher
from rl_core.backends.contracts.server_side import Announcer, Reporter
from rl_core.config import Bandit, ServingContainer, Settings
from rl_core.serving.policies import OneArtefact, Policies, RegistryWatcher

SALT_BYTES = 32


@dataclass(frozen=True)
class Parts:
    """What the server is put together from.

    Args:
        salt: the endpoint's secret, made once: an event id keeps its draw over restarts and replicas.
        announcer: gives, for URL and pid, where to say that the server listens there; None where nobody looks.
        reporter: writes the server's state down where nobody can ask it.
    """

    policies: Policies
    bus: Publisher
    salt: bytes
    announcer: Callable[[str, int | None], Announcer | None] = lambda url, pid: None
    reporter: Reporter | None = None


@contextmanager
def opened(bandit: Bandit, settings: Settings, container: ServingContainer) -> Iterator[Parts]:
    """Open a server's parts and close them at the end. Raises BanditError where one of them can't be had."""
    with closing(open_backend(bandit, settings)) as backend:
        side = backend.server_side()
        policies, salt = _policies(backend, container), side.salt(SALT_BYTES)
        with closing(backend.publisher()) as bus:
            yield Parts(policies, bus, salt, side.announcer, side.reporter())


def _policies(backend: Backend, container: ServingContainer) -> Policies:
    bandit, version, side = backend.bandit, backend.settings.policy_version, backend.server_side()
    artefact = container.artefact
    if container.remote_artefact is not None:
        artefact = side.fetch(container.remote_artefact, version)
    if artefact is not None:
        return OneArtefact(artefact, bandit.problem, version)
    return RegistryWatcher(backend.registry(), bandit.problem, side.poll_s)
