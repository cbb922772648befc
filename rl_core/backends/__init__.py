"""Opens the backend that a bandit's YAML names: the only place that tells one backend from the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from rl_core.backends.contracts.backend import Backend


def backend_class(bandit: Bandit) -> type[Backend]:
    """Return the class of the bandit's backend: what can be known of it before it is opened."""
    if bandit.backend == "gcp":
        from rl_core.backends.gcp.backend import GoogleBackend

        return GoogleBackend
    from rl_core.backends.local.backend import LocalBackend

    return LocalBackend


def open_backend(bandit: Bandit, settings: Settings, credentials: Credentials | None = None) -> Backend:
    """Open the bandit's backend. Nothing is imported or connected to before it is needed.

    Args:
        credentials: who acts on Google Cloud; None means the process's own account.
    """
    return backend_class(bandit)(bandit, settings, credentials)
