"""The local policy registry: a folder whose one document, `registry.json`, is replaced atomically.

registry.json       versions with lineage, aliases, attempts, lease; read without a lock, written under registry.lock
versions/<version>/ the artefacts, immutable
exports/<version>/  for TensorFlow: saved_model/, encoder.json and actions.json of promoted versions, immutable
blocks/<digest>.npz the blocks, immutable, named by the sha256 of their content
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from rl_core.backends.registry.document import DocumentRegistry, require_untouched
from rl_core.backends.registry.state import RegistryState
from rl_core.errors import RegistryError
from rl_core.files import locked, move_synced, write_atomically

T = TypeVar("T")


class FolderRegistry(DocumentRegistry):
    """`PolicyRegistry` in the folder `path`, which need not exist before the first write."""

    def __init__(self, path: Path, bandit_id: str) -> None:
        super().__init__(bandit_id)
        self._path = path
        self._file = path / "registry.json"
        self._blocks = path / "blocks"
        self._seen: tuple[tuple[int, ...], RegistryState] | None = None

    def put_block(self, source: Path) -> str:
        try:
            content = source.read_bytes()
        except OSError as error:
            raise RegistryError(f"block {source} can't be read: {error.strerror}") from error
        digest = sha256(content).hexdigest()
        if not self._block_stored(digest):
            self._blocks.mkdir(parents=True, exist_ok=True)
            write_atomically(self._blocks / f"{digest}.npz", content)
        return digest

    def block_path(self, digest: str) -> Path:
        if not self._block_stored(digest):
            raise RegistryError(f"no block {digest!r} in {self._blocks}; put_block it, or do a full retrain")
        return self._blocks / f"{digest}.npz"

    def path(self, version: str) -> Path:
        return require_untouched(self._path / "versions" / version, self._state().of(version).digest)

    def _block_stored(self, digest: str) -> bool:
        return (self._blocks / f"{digest}.npz").exists()

    def _take_in(self, artefact: Path, version: str, digest: str) -> None:
        _copy_in(artefact, self._path / "versions" / version)

    def _take_in_export(self, exported: Path, version: str, digest: str) -> None:
        _copy_in(exported, self._export_path(version, digest))

    def _export_path(self, version: str, digest: str) -> Path:
        return self._path / "exports" / version

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

    def _change(self, change: Callable[[RegistryState, datetime], T]) -> T:
        """Under the lock; written where something changed."""
        try:
            with locked(self._path / "registry.lock", "the policy registry"):
                before = self._state()
                after = before.model_copy(deep=True)
                done = change(after, datetime.now(UTC))
                if after != before:
                    write_atomically(self._file, after.model_dump_json(indent=1).encode())
                return done
        except OSError as error:
            raise RegistryError(f"{self._path}: {error.strerror or error}") from error


def _copy_in(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    incoming = target.with_name(".incoming")
    for leftover in (incoming, target):  # of a change that was killed: registry.json doesn't name it
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, incoming)
    move_synced(incoming, target)  # registry.json must not name what a power cut can empty
