"""The policy registry contract: versions with their lineage, who is champion, and every attempt at training."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from rl_core.backends.contracts.store import Window


@dataclass(frozen=True)
class WindowRef:
    """A window that counts in a policy, with the content digest of its stored block."""

    seq_low: int
    seq_high: int
    block: str


@dataclass(frozen=True)
class Exclusion:
    """A window that a policy leaves out, and so does every retrain from it; `rl_core/policy/windows.py` says which."""

    seq_low: int
    seq_high: int
    reason: str


@dataclass(frozen=True)
class Lineage:
    """Where a policy comes from: its parent, the windows it was trained on, and those it leaves out."""

    parent: str | None
    windows: tuple[WindowRef, ...]
    excluded: tuple[Exclusion, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One try at training, recorded whatever its verdict; `key` makes recording idempotent."""

    key: str
    windows: tuple[Window, ...]
    verdict: Literal["promoted", "rejected"]
    version: str | None
    trigger: Literal["startup", "sensor", "manual"]
    reason: str
    at: datetime
    metrics: dict[str, float] = field(default_factory=dict)


class PolicyRegistry(Protocol):
    """The versions with lineage, aliases and attempts, and the immutable blocks that policies are sums of."""

    def put_block(self, source: Path) -> str:
        """Store a block file under its content digest and return the digest; idempotent."""

    def block_path(self, digest: str) -> Path:
        """Return the stored block as a file on this machine. Raises RegistryError where it is not stored."""

    def register(self, artefact: Path, lineage: Lineage) -> str:
        """Copy the artefact in and return its version `{prefix}-{pipe_version}-{n:04d}`.

        Idempotent: the same artefact (manifest digest) and lineage give the same version.
        """

    def versions(self) -> list[str]:
        """Return all versions in the order in which they were registered."""

    def path(self, version: str) -> Path:
        """Return the version's artefact as a folder on this machine. Raises RegistryError: unknown, or altered."""

    def attach(self, version: str, exported: Path) -> None:
        """Keep the folder with the version's `saved_model/`; idempotent: the first that was attached stays."""

    def exported(self, version: str) -> Path | None:
        """Return the folder with the version's `saved_model/` on this machine; None where none was attached (yet).

        Raises RegistryError: unknown, or altered.
        """

    def lineage(self, version: str) -> Lineage:
        """Return the lineage of a version. Raises RegistryError where it is unknown."""

    def alias(self, name: Literal["champion", "challenger"]) -> str | None:
        """Return the version that an alias names, if any."""

    def stage(self, version: str) -> None:
        """Let `challenger` name the version, so that the endpoint loads and probes it."""

    def promote(self, version: str, expected_champion: str | None, attempt: Attempt | None = None) -> None:
        """Let `champion` name the version and record the attempt that won it, in one step (compare-and-swap).

        Already being champion is success. Raises PromotionConflict where the champion is not the expected one.
        """

    def restore(self, champion: str | None, expected_champion: str, attempt: Attempt | None = None) -> None:
        """Undo a promotion that never came to serve, and drop its attempt, in one step; also to no champion.

        Raises PromotionConflict where the champion is not the expected one.
        """

    def record(self, attempt: Attempt) -> None:
        """Record an attempt; a second one under the same key is dropped."""

    def attempts(self) -> list[Attempt]:
        """Return all attempts, whatever their verdict, in the order they were recorded."""

    def lease(self, holder: str, ttl_s: float) -> None:
        """Take or renew the training lock for `ttl_s` seconds. Raises LeaseHeld, naming holder and expiry."""

    def release(self, holder: str) -> None:
        """Give the training lock back; releasing what one doesn't hold does nothing."""
