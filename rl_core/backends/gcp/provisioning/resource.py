"""The contract of a resource that provisioning makes, and what every resource works with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rl_core.backends.contracts.backend import Part
from rl_core.google_cloud.names import LABEL, Names

if TYPE_CHECKING:
    from rl_core.config import Bandit
    from rl_core.google_cloud.clients import GoogleClients


class Found(StrEnum):
    """What `exists` found."""

    ABSENT = "absent"
    STALE = "made by us, and the settings have changed since"
    OURS = "made by us"
    FOREIGN = "was there before"


class Resource(Protocol):
    """One resource, or bindings of one resource. Every method may be called again after any crash."""

    @property
    def part(self) -> Part:
        """The part of provisioning that it belongs to."""

    @property
    def role(self) -> str:
        """The role that the acting account needs, e.g. "roles/pubsub.admin on the project"."""

    def describe(self) -> str:
        """Return kind and name, e.g. "topic movielens-v1-events"."""

    def exists(self) -> Found:
        """Look for the resource, without changing anything."""

    def create(self) -> None:
        """Make it where it is absent, mend it where it is stale. Raises what the clients raise."""

    def delete(self) -> Found:
        """Take away what we made, and only that; return what there was."""


class Owned(ABC):
    """A resource that is ours as a whole or not at all."""

    def delete(self) -> Found:
        from google.api_core.exceptions import NotFound

        found = self.exists()
        if found in (Found.OURS, Found.STALE):
            try:
                self._remove()
            except NotFound:
                return Found.ABSENT
        return found

    @abstractmethod
    def exists(self) -> Found: ...

    @abstractmethod
    def _remove(self) -> None: ...


@dataclass(frozen=True)
class Site:
    """The bandit to provision, and by whom.

    Args:
        runtime_account: e-mail of the account that tasks, sensors and the joiner act as; None where it is unknown.
        bundle: the zip of the Cloud Functions.
        patience_s: how long a new account may take to be known to other services.
    """

    bandit: Bandit
    clients: GoogleClients
    runtime_account: str | None = None
    bundle: Path | None = None
    patience_s: float = 60.0

    @property
    def names(self) -> Names:
        return self.clients.names

    @property
    def mark(self) -> str:
        """The word that stands in the description of what carries no label."""
        return f"{LABEL}={self.names.bandit_id}"

    def owner(self, labels: Mapping[str, str] | None) -> Found:
        """Tell by its labels whose a resource is."""
        return Found.OURS if (labels or {}).get(LABEL) == self.names.bandit_id else Found.FOREIGN

    def owner_by(self, description: str | None) -> Found:
        """Tell by its description whose a resource is."""
        return Found.OURS if self.mark in (description or "").split() else Found.FOREIGN
