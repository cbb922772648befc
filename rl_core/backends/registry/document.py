"""The policy registry over one document; a backend says how that is read, changed and kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from rl_core.backends.contracts.registry import Attempt, Lineage
from rl_core.backends.registry.state import AliasName, Lease, Registered, RegistryState, check_lineage
from rl_core.errors import LeaseHeld, PromotionConflict, RegistryError

T = TypeVar("T")


def manifest_digest(artefact: Path) -> str:
    """Hash an artefact's manifest, which names every file by SHA-256. Raises RegistryError."""
    try:
        return sha256((artefact / "manifest.json").read_bytes()).hexdigest()
    except OSError as error:
        raise RegistryError(f"{artefact} is not a policy artefact: manifest.json: {error.strerror}") from error


def require_untouched(artefact: Path, digest: str) -> Path:
    """Return the artefact if its manifest is the one that was registered. Raises RegistryError."""
    if manifest_digest(artefact) != digest:
        raise RegistryError(
            f"{artefact}/manifest.json is not the one that was registered; restore it from a copy, or train again"
        )
    return artefact


def folder_digest(folder: Path) -> str:
    """Hash the names and contents of all files below `folder` (SHA-256). Raises RegistryError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    try:
        named = [f"{path.relative_to(folder).as_posix()}\0{sha256(path.read_bytes()).hexdigest()}\n" for path in files]
    except OSError as error:
        raise RegistryError(f"{folder} can't be read: {error.filename}: {error.strerror}") from error
    return sha256("".join(named).encode()).hexdigest()


class DocumentRegistry(ABC):
    """`PolicyRegistry`, but for the places of blocks and artefacts; both backends derive theirs from it."""

    def __init__(self, bandit_id: str) -> None:
        self._bandit_id = bandit_id

    @abstractmethod
    def _state(self) -> RegistryState:
        """The document as it is now; not to be changed. Raises RegistryError."""

    @abstractmethod
    def _change(self, change: Callable[[RegistryState, datetime], T]) -> T:
        """Change the document in one step: nobody else's change comes between what `change` sees and what it leaves.

        Args:
            change: changes the state it is given, at the time it is given; may be called again with a newer state.

        Returns what `change` did. Raises what it raised, and then nothing is changed; RegistryError.
        """

    @abstractmethod
    def _block_stored(self, digest: str) -> bool: ...

    @abstractmethod
    def path(self, version: str) -> Path: ...

    @abstractmethod
    def _take_in(self, artefact: Path, version: str, digest: str) -> None:
        """Keep the artefact's files. Called before the document names the version; repeatable."""

    @abstractmethod
    def _take_in_export(self, exported: Path, version: str, digest: str) -> None:
        """Keep what is attached to a version, as `_take_in` does an artefact."""

    @abstractmethod
    def _export_path(self, version: str, digest: str) -> Path: ...

    def register(self, artefact: Path, lineage: Lineage) -> str:
        digest = manifest_digest(artefact)

        def change(state: RegistryState, now: datetime) -> str:
            for version, known in state.versions.items():
                if (known.digest, known.lineage) == (digest, lineage):
                    return version
            check_lineage(lineage, state, self._block_stored)
            version = f"{self._bandit_id}-{len(state.versions) + 1:04d}"
            self._take_in(artefact, version, digest)
            state.versions[version] = Registered(digest=digest, lineage=lineage, registered_at=now)
            return version

        return self._change(change)

    def attach(self, version: str, exported: Path) -> None:
        digest = folder_digest(exported)

        def change(state: RegistryState, now: datetime) -> None:
            known = state.of(version)
            if known.exported is None:
                self._take_in_export(exported, version, digest)
                known.exported = digest

        self._change(change)

    def exported(self, version: str) -> Path | None:
        digest = self._state().of(version).exported
        if digest is None:
            artefact = self.path(version)  # policies of before 0.3 have it in their artefact
            return artefact if (artefact / "saved_model").is_dir() else None
        folder = self._export_path(version, digest)
        if folder_digest(folder) != digest:
            raise RegistryError(f"{folder} is not what was exported; restore it from a copy")
        return folder

    def versions(self) -> list[str]:
        return list(self._state().versions)

    def lineage(self, version: str) -> Lineage:
        return self._state().of(version).lineage

    def alias(self, name: AliasName) -> str | None:
        return self._state().aliases.get(name)

    def stage(self, version: str) -> None:
        def change(state: RegistryState, now: datetime) -> None:
            state.of(version)
            state.aliases["challenger"] = version

        self._change(change)

    def promote(self, version: str, expected_champion: str | None, attempt: Attempt | None = None) -> None:
        def change(state: RegistryState, now: datetime) -> None:
            state.of(version)
            champion = state.aliases.get("champion")
            if champion not in (version, expected_champion):
                raise PromotionConflict(
                    f"champion is {champion or 'none'}, expected {expected_champion or 'none'}: "
                    f"something else promoted first; {version} was not promoted, train again from the champion"
                )
            state.crown(version)
            if attempt is not None:
                state.record(attempt)

        self._change(change)

    def restore(self, champion: str | None, expected_champion: str, attempt: Attempt | None = None) -> None:
        def change(state: RegistryState, now: datetime) -> None:
            if (found := state.aliases.get("champion")) != expected_champion:
                raise PromotionConflict(
                    f"champion is {found or 'none'}, expected {expected_champion}: something else promoted since; "
                    f"{champion or 'no champion'} was not restored"
                )
            state.crown(champion)
            if attempt is not None:
                state.attempts = [known for known in state.attempts if known.key != attempt.key]

        self._change(change)

    def record(self, attempt: Attempt) -> None:
        self._change(lambda state, now: state.record(attempt))

    def attempts(self) -> list[Attempt]:
        return list(self._state().attempts)

    def lease(self, holder: str, ttl_s: float) -> None:
        def change(state: RegistryState, now: datetime) -> None:
            if other := state.leased_to_another(holder, now):
                until = other.until.isoformat(timespec="seconds")
                raise LeaseHeld(f"{other.holder!r} holds the training lease until {until}; wait for it to end")
            state.lease = Lease(holder=holder, until=now + timedelta(seconds=ttl_s))

        self._change(change)

    def release(self, holder: str) -> None:
        def change(state: RegistryState, now: datetime) -> None:
            if state.lease and state.lease.holder == holder:
                state.lease = None

        self._change(change)
