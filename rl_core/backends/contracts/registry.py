"""The policy registry: versions with their lineage, who is champion, and every attempt at training."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from rl_core.backends.contracts.store import Window


@dataclass(frozen=True)
class WindowRef:
    """A window whose block counts in a policy. `block` is the content digest of the stored block."""

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
    parent: str | None
    windows: tuple[WindowRef, ...]
    excluded: tuple[Exclusion, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One try at training: recorded whatever its verdict. `key` makes recording idempotent."""

    key: str
    windows: tuple[Window, ...]
    verdict: Literal["promoted", "rejected"]
    version: str | None
    trigger: Literal["startup", "sensor", "manual"]
    reason: str
    at: datetime
    metrics: dict[str, float] = field(default_factory=dict)


class PolicyRegistry(Protocol):
    """Versions with lineage, aliases, attempts, and the immutable blocks that policies are sums of."""

    def put_block(self, source: Path) -> str:
        """Store a block file under its content digest and return the digest; idempotent."""

    def block_path(self, digest: str) -> Path: ...

    def register(self, artefact: Path, lineage: Lineage) -> str:
        """Copy the artefact in and return its version `{prefix}-{pipe_version}-{n:04d}`.

        Idempotent: the same artefact (manifest digest) and lineage give the same version.
        """

    def versions(self) -> list[str]: ...

    def path(self, version: str) -> Path: ...

    def lineage(self, version: str) -> Lineage: ...

    def alias(self, name: Literal["champion", "challenger"]) -> str | None: ...

    def stage(self, version: str) -> None:
        """Point `challenger` at the version: the endpoint loads and probes it."""

    def promote(self, version: str, expected_champion: str | None, attempt: Attempt | None = None) -> None:
        """Compare-and-swap of `champion`, and the record of the attempt that won it, in one step.

        Already being champion is success. Raises PromotionConflict.
        """

    def restore(self, champion: str | None, expected_champion: str, attempt: Attempt | None = None) -> None:
        """Undo a promotion that never came to serve, in one step: swap back, also to no champion; forget its attempt.

        Raises PromotionConflict.
        """

    def record(self, attempt: Attempt) -> None:
        """Keep the attempt; a second one under the same key is dropped."""

    def attempts(self) -> list[Attempt]:
        """All of them, whatever their verdict, in the order they were recorded."""

    def lease(self, holder: str, ttl_s: float) -> None:
        """Take or renew the training lease. Raises LeaseHeld, naming holder and expiry."""

    def release(self, holder: str) -> None:
        """Give the lease back; releasing what one doesn't hold does nothing."""
