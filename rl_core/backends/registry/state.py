"""The registry's document, `registry.json`, as checked types; the same on every backend."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from rl_core.backends.contracts.registry import Attempt, Lineage
from rl_core.errors import RegistryError

AliasName = Literal["champion", "challenger"]


class Registered(BaseModel):
    """A registered version."""

    digest: str  # sha256 of the artefact's manifest, which holds the checksums of all its files
    lineage: Lineage
    registered_at: datetime
    exported: str | None = None  # digest of what was attached


class Lease(BaseModel):
    """Who holds the training lock, and until when."""

    holder: str
    until: datetime


class RegistryState(BaseModel):
    """All that a policy registry knows but for blocks and artefacts."""

    # NaN and Infinity stand as such in the file: a null would make it unreadable
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    format: Literal[1] = 1
    versions: dict[str, Registered] = {}
    aliases: dict[AliasName, str] = {}
    attempts: list[Attempt] = []
    lease: Lease | None = None

    def of(self, version: str) -> Registered:
        """Return a registered version. Raises RegistryError naming the last known."""
        if version in self.versions:
            return self.versions[version]
        known = list(self.versions)
        listed = ", ".join(known[-5:]) if known else "none yet: startup or the first retrain makes one"
        raise RegistryError(f"no version {version!r}; the {'last ' if len(known) > 5 else ''}versions are {listed}")

    def leased_to_another(self, holder: str, now: datetime) -> Lease | None:
        """Return the training lock if somebody else holds it now."""
        lease = self.lease
        return lease if lease and lease.holder != holder and lease.until > now else None

    def crown(self, version: str | None) -> None:
        """Make a version the champion, which ends its challenge; None leaves no champion."""
        if version is None:
            self.aliases.pop("champion", None)
            return
        self.of(version)
        self.aliases["champion"] = version
        if self.aliases.get("challenger") == version:
            del self.aliases["challenger"]

    def record(self, attempt: Attempt) -> None:
        """Record an attempt; a second one under the same key is dropped."""
        if all(attempt.key != known.key for known in self.attempts):
            self.attempts.append(attempt)

    @classmethod
    def parse(cls, content: bytes, place: object) -> Self:
        """Parse the document; `place` is where it lies, for the error. Raises RegistryError."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise RegistryError(
                f"{place} is damaged ({field + ': ' if field else ''}{first['msg']}); restore it from a copy, "
                "or move the registry folder away and run startup again"
            ) from error


def check_lineage(lineage: Lineage, state: RegistryState, stored: Callable[[str], bool]) -> None:
    """Raise RegistryError unless windows don't overlap, counted or excluded, and each counted one's block is stored."""
    if lineage.parent is not None:
        state.of(lineage.parent)
    counted = [(window.seq_low, window.seq_high) for window in lineage.windows]
    spans = sorted(counted + [(window.seq_low, window.seq_high) for window in lineage.excluded])
    for low, high in spans:
        if not 0 <= low < high:
            raise RegistryError(f"lineage window ({low}, {high}] is none; give 0 <= seq_low < seq_high")
    for (low, high), (next_low, next_high) in pairwise(spans):
        if next_low < high:
            raise RegistryError(
                f"lineage windows ({low}, {high}] and ({next_low}, {next_high}] overlap; count each once"
            )
    for window in lineage.windows:
        if not stored(window.block):
            raise RegistryError(
                f"block {window.block} of ({window.seq_low}, {window.seq_high}] is not stored; put_block it first"
            )
