"""The policy registry in Cloud Storage; Vertex Model Registry mirrors it.

gs://<bucket>/<artefact>/registry/
    registry.json           versions with lineage, aliases, attempts, lease; compare-and-swap of its generation
    artefacts/<digest>/     the policies, immutable, named by the sha256 of their manifest
    exports/<digest>/       for TensorFlow: saved_model/, encoder.json and actions.json of promoted versions, immutable
    blocks/<digest>.npz     the blocks, immutable, named by the sha256 of their content

The document is the truth. Vertex shows the same versions and aliases, and is repaired at every write of them.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from rl_core.backends.contracts.registry import Attempt, Lineage
from rl_core.backends.gcp import artefacts
from rl_core.backends.gcp.registry.model_mirror import ModelMirror
from rl_core.backends.gcp.server_clock import ServerClock
from rl_core.backends.registry.document import DocumentRegistry, require_untouched
from rl_core.backends.registry.state import RegistryState
from rl_core.errors import RegistryError
from rl_core.files import write_atomically
from rl_core.google_cloud.clients import GoogleClients
from rl_core.google_cloud.failures import explained, transient
from rl_core.waiting import tries

T = TypeVar("T")
_TRIES = 20
_UNANSWERED_MOST = 2
_WRITES_REMEMBERED = 64
_RETRIED_FOR_S = 30.0


class RegistryDocument(RegistryState):
    """The registry's document in Cloud Storage.

    `writes`: ids of the latest writes, so that one whose answer was lost finds itself.
    """

    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """`generation` 0: there is no document yet."""

    generation: int
    document: RegistryDocument


class VertexRegistry(DocumentRegistry):
    """`PolicyRegistry` in Cloud Storage. What is fetched is kept below settings.home/<bandit id>/cache."""

    def __init__(self, clients: GoogleClients) -> None:
        super().__init__(clients.names.bandit_id)
        self._clients = clients
        self._folder = f"{clients.names.folder}registry/"
        self._name = f"{self._folder}registry.json"
        self._uri = f"gs://{clients.names.bucket}/{self._name}"
        self._cache = clients.settings.state_dir(clients.bandit) / "cache"
        self._clock = ServerClock(clients)
        self._mirror = ModelMirror(clients)
        self._seen: _Seen | None = None
        self._blocks: set[str] = set()

    def put_block(self, source: Path) -> str:
        try:
            digest = sha256(source.read_bytes()).hexdigest()
        except OSError as error:
            raise RegistryError(f"block {source} can't be read: {error.strerror}") from error
        artefacts.upload_file(self._clients, source, self._block_name(digest))
        self._blocks.add(digest)
        return digest

    def block_path(self, digest: str) -> Path:
        path = self._cache / "blocks" / f"{digest}.npz"
        if not path.exists():
            from google.api_core.exceptions import NotFound

            name = self._block_name(digest)
            with self._explained(f"read gs://{self._clients.names.bucket}/{name}"):
                try:
                    content = self._clients.bucket.blob(name).download_as_bytes(timeout=artefacts.TIMEOUT_S)
                except NotFound:
                    raise RegistryError(
                        f"no block {digest!r} in gs://{self._clients.names.bucket}/{self._folder}blocks; "
                        "put_block it, or do a full retrain"
                    ) from None
            if sha256(content).hexdigest() != digest:
                raise RegistryError(f"gs://{self._clients.names.bucket}/{name} is damaged; do a full retrain")
            _keep(path, content)
        return path

    def path(self, version: str) -> Path:
        digest = self._state().of(version).digest
        folder = self._cache / "versions" / version
        if _manifest_digest(folder) != digest:
            shutil.rmtree(folder, ignore_errors=True)  # of a registry that stood here before
            artefacts.download(self._clients, self.artefact_uri(digest), folder)
        return require_untouched(folder, digest)

    def artefact_uri(self, digest: str) -> str:
        """Return the gs:// folder of an artefact, by its digest."""
        return f"gs://{self._clients.names.bucket}/{self._artefact_prefix(digest)}"

    def digest(self, version: str) -> str:
        """Return the SHA-256 of the version's manifest."""
        return self._state().of(version).digest

    def register(self, artefact: Path, lineage: Lineage) -> str:
        """Register as the contract says. Raises RegistryError also where Vertex Model Registry refuses for good."""
        version = super().register(artefact, lineage)
        self._mirror.follow(self._state, self.artefact_uri)
        return version

    def stage(self, version: str) -> None:
        super().stage(version)
        self._mirror.follow(self._state, self.artefact_uri)

    def promote(self, version: str, expected_champion: str | None, attempt: Attempt | None = None) -> None:
        super().promote(version, expected_champion, attempt)
        self._mirror.try_to_follow(self._state, self.artefact_uri)

    def restore(self, champion: str | None, expected_champion: str, attempt: Attempt | None = None) -> None:
        super().restore(champion, expected_champion, attempt)
        self._mirror.try_to_follow(self._state, self.artefact_uri)

    def _block_name(self, digest: str) -> str:
        return f"{self._folder}blocks/{digest}.npz"

    def _artefact_prefix(self, digest: str) -> str:
        return f"{self._folder}artefacts/{digest}"

    def _export_prefix(self, digest: str) -> str:
        return f"{self._folder}exports/{digest}"

    def _block_stored(self, digest: str) -> bool:
        if digest not in self._blocks:
            prefix = f"{self._folder}blocks/"
            with self._explained(f"list gs://{self._clients.names.bucket}/{prefix}"):
                found = self._clients.storage.list_blobs(
                    self._clients.names.bucket, prefix=prefix, fields="items(name),nextPageToken"
                )
                self._blocks = {blob.name.removeprefix(prefix).removesuffix(".npz") for blob in found}
        return digest in self._blocks

    def _take_in(self, artefact: Path, version: str, digest: str) -> None:
        artefacts.upload(self._clients, artefact, self._artefact_prefix(digest))

    def _take_in_export(self, exported: Path, version: str, digest: str) -> None:
        artefacts.upload(self._clients, exported, self._export_prefix(digest))

    def _export_path(self, version: str, digest: str) -> Path:
        folder = self._cache / "exports" / digest
        if not folder.exists():
            artefacts.download(
                self._clients, f"gs://{self._clients.names.bucket}/{self._export_prefix(digest)}", folder
            )
        return folder

    def _state(self) -> RegistryDocument:
        return self._read().document

    def _read(self) -> _Seen:
        """One small request; a document that has not changed is not sent again (304)."""
        from google.api_core.exceptions import NotFound, NotModified
        from google.cloud.storage.retry import DEFAULT_RETRY

        blob = self._clients.bucket.blob(self._name)
        known = self._seen.generation if self._seen is not None and self._seen.generation else None
        with self._explained(f"read {self._uri}"):
            try:
                content = blob.download_as_bytes(
                    if_generation_not_match=known,
                    timeout=artefacts.TIMEOUT_S,
                    retry=DEFAULT_RETRY.with_timeout(_RETRIED_FOR_S),
                )
            except NotModified:
                assert self._seen is not None  # noqa: S101  its generation was sent
                return self._seen
            except NotFound:
                self._check_bucket()
                seen = _Seen(0, RegistryDocument())
            else:
                seen = _Seen(int(blob.generation), RegistryDocument.parse(content, self._uri))
        self._seen = seen
        return seen

    def _check_bucket(self) -> None:
        """A missing document is an empty registry; a missing bucket is an error, and answers 404 here too."""
        names = self._clients.names
        next(iter(self._clients.storage.list_blobs(names.bucket, prefix=self._folder, max_results=1)), None)

    def _change(self, change: Callable[[RegistryState, datetime], T]) -> T:
        """Compare-and-swap, again from the newest document where another write was first.

        A write whose answer was lost may have landed: each carries an id, and the next look at the document shows it.
        """
        tried: dict[str, T] = {}
        unanswered = 0
        for _ in tries(_TRIES, 0.02, 1.0):
            seen = self._read()
            for write_id in seen.document.writes:
                if write_id in tried:
                    return tried[write_id]
            after = seen.document.model_copy(deep=True)
            done = change(after, self._clock.now())
            if after == seen.document:
                return done
            write_id = uuid.uuid4().hex
            after.writes = (*after.writes, write_id)[-_WRITES_REMEMBERED:]
            tried[write_id] = done
            if swapped := self._swapped(seen.generation, after, sure=unanswered >= _UNANSWERED_MOST):
                return done
            unanswered += swapped is None
        raise RegistryError(f"{self._uri} changed {_TRIES} times while it was to be changed; try again")

    def _swapped(self, generation: int, document: RegistryDocument, sure: bool) -> bool | None:
        """Whether it is written; None where no answer came and it may be: look. With `sure`, that is an error."""
        from google.api_core.exceptions import GoogleAPICallError, PreconditionFailed, RetryError
        from google.cloud.storage.retry import DEFAULT_RETRY
        from requests.exceptions import RequestException

        blob = self._clients.bucket.blob(self._name)
        blob.cache_control = "no-store"
        with self._explained(f"write {self._uri}"):
            try:
                blob.upload_from_string(
                    document.model_dump_json(indent=1),
                    content_type="application/json",
                    if_generation_match=generation,
                    timeout=artefacts.TIMEOUT_S,
                    retry=DEFAULT_RETRY.with_timeout(_RETRIED_FOR_S),
                )
            except PreconditionFailed:
                return False
            except (GoogleAPICallError, RetryError, RequestException) as error:
                if sure or not transient(error):
                    raise
                return None
        self._seen = _Seen(int(blob.generation), document)
        return True

    def _explained(self, what: str) -> AbstractContextManager[None]:
        return explained(RegistryError, what, self._clients.names, artefacts.ROLE)


def _manifest_digest(folder: Path) -> str | None:
    manifest = folder / "manifest.json"
    return sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else None


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
