"""The local policy registry: a folder whose one pointer file, `registry.json`, is replaced atomically.

registry.json       versions with lineage, aliases, attempts, lease; read without a lock, written under registry.lock
versions/<version>/ the artefacts, immutable
blocks/<digest>.npz the blocks, immutable, named by the sha256 of their content
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from rl_core.backends.base import Attempt, Lineage
from rl_core.backends.local.files import locked, sync_folder, write_atomically
from rl_core.backends.local.registry_state import AliasName, Lease, Registered, RegistryState, check_lineage
from rl_core.errors import LeaseHeld, PromotionConflict, RegistryError


class FolderRegistry:
    """`PolicyRegistry` in the folder `path`, which need not exist before the first write."""

    def __init__(self, path: Path, artefact_name: str) -> None:
        self._path = path
        self._artefact_name = artefact_name
        self._file = path / "registry.json"
        self._blocks = path / "blocks"
        self._seen: tuple[tuple[int, ...], RegistryState] | None = None

    def put_block(self, source: Path) -> str:
        try:
            content = source.read_bytes()
        except OSError as error:
            raise RegistryError(f"block {source} can't be read: {error.strerror}") from error
        digest = sha256(content).hexdigest()
        target = self._blocks / f"{digest}.npz"
        if not target.exists():
            self._blocks.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)
        return digest

    def block_path(self, digest: str) -> Path:
        path = self._blocks / f"{digest}.npz"
        if not path.exists():
            raise RegistryError(f"no block {digest!r} in {self._blocks}; put_block it, or do a full retrain")
        return path

    def register(self, artefact: Path, lineage: Lineage) -> str:
        try:
            digest = sha256((artefact / "manifest.json").read_bytes()).hexdigest()
        except OSError as error:
            raise RegistryError(f"{artefact} is not a policy artefact: manifest.json: {error.strerror}") from error
        with self._changing() as state:
            for version, known in state.versions.items():
                if (known.digest, known.lineage) == (digest, lineage):
                    return version
            check_lineage(lineage, state, self._blocks)
            version = f"{self._artefact_name}-{len(state.versions) + 1:04d}"
            self._take_in(artefact, version)
            state.versions[version] = Registered(digest=digest, lineage=lineage, registered_at=datetime.now(UTC))
        return version

    def versions(self) -> list[str]:
        return list(self._state().versions)

    def path(self, version: str) -> Path:
        self._state().of(version)
        return self._path / "versions" / version

    def lineage(self, version: str) -> Lineage:
        return self._state().of(version).lineage

    def alias(self, name: AliasName) -> str | None:
        return self._state().aliases.get(name)

    def stage(self, version: str) -> None:
        with self._changing() as state:
            state.of(version)
            state.aliases["challenger"] = version

    def promote(self, version: str, expected_champion: str | None, attempt: Attempt | None = None) -> None:
        with self._changing() as state:
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

    def restore(self, champion: str | None, expected_champion: str, attempt: Attempt | None = None) -> None:
        with self._changing() as state:
            if (found := state.aliases.get("champion")) != expected_champion:
                raise PromotionConflict(
                    f"champion is {found or 'none'}, expected {expected_champion}: something else promoted since; "
                    f"{champion or 'no champion'} was not restored"
                )
            state.crown(champion)
            if attempt is not None:
                state.attempts = [known for known in state.attempts if known.key != attempt.key]

    def record(self, attempt: Attempt) -> None:
        with self._changing() as state:
            state.record(attempt)

    def attempts(self) -> list[Attempt]:
        return list(self._state().attempts)

    def lease(self, holder: str, ttl_s: float) -> None:
        with self._changing() as state:
            if other := state.leased_to_another(holder):
                until = other.until.isoformat(timespec="seconds")
                raise LeaseHeld(f"{other.holder!r} holds the training lease until {until}; wait for it to end")
            state.lease = Lease(holder=holder, until=datetime.now(UTC) + timedelta(seconds=ttl_s))

    def release(self, holder: str) -> None:
        with self._changing() as state:
            if state.lease and state.lease.holder == holder:
                state.lease = None

    def _take_in(self, artefact: Path, version: str) -> None:
        folder = self._path / "versions"
        folder.mkdir(parents=True, exist_ok=True)
        incoming, target = folder / ".incoming", folder / version
        for leftover in (incoming, target):  # of a registration that was killed: registry.json doesn't name it
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(artefact, incoming)
        incoming.rename(target)
        sync_folder(folder)

    def _state(self) -> RegistryState:
        try:
            found = self._file.stat()
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._seen is None or self._seen[0] != mark:
                self._seen = mark, RegistryState.parse(self._file.read_bytes(), self._file)
            return self._seen[1]
        except FileNotFoundError:
            return RegistryState()
        except OSError as error:
            raise RegistryError(f"{self._file} can't be read: {error.strerror}") from error

    @contextmanager
    def _changing(self) -> Iterator[RegistryState]:
        """A copy to change under the lock; written where it was changed and nothing was raised."""
        try:
            with locked(self._path / "registry.lock", "the policy registry"):
                before = self._state()
                after = before.model_copy(deep=True)
                yield after
                if after != before:
                    write_atomically(self._file, after.model_dump_json(indent=1).encode())
        except OSError as error:
            raise RegistryError(f"{self._path}: {error.strerror or error}") from error
