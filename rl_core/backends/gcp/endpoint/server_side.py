"""What a prediction server on Vertex AI finds in the bandit's bucket."""

from __future__ import annotations

import secrets
import socket
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rl_core.backends.gcp.artefacts import ROLE, download
from rl_core.backends.gcp.endpoint.replicas import ReplicaReporter
from rl_core.errors import ConfigError
from rl_core.google_cloud.failures import explained

if TYPE_CHECKING:
    from rl_core.google_cloud.clients import GoogleClients


class VertexServerSide:
    """`ServerSide` of every replica of the endpoint: they share one secret, so all draw alike."""

    def __init__(self, clients: GoogleClients) -> None:
        self._clients = clients
        self.poll_s = clients.names.google.endpoint.poll_s

    def salt(self, length: int) -> bytes:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        names = self._clients.names
        name = f"{names.folder}endpoint/salt"
        place = f"gs://{names.bucket}/{name}"
        blob = self._clients.bucket.blob(name)
        with explained(ConfigError, f"read the endpoint's secret {place}", names, ROLE):
            try:
                salt: bytes = blob.download_as_bytes()
            except NotFound:
                with suppress(PreconditionFailed):  # another replica's, or our own whose answer was lost
                    blob.upload_from_string(secrets.token_bytes(length), if_generation_match=0)
                salt = blob.download_as_bytes()
        if len(salt) != length:
            raise ConfigError(f"{place} holds {len(salt)} bytes, a salt has {length}; remove it and a new one is made")
        return salt

    def fetch(self, uri: str, version: str | None) -> Path:
        state_dir = self._clients.settings.state_dir(self._clients.bandit)
        name = version or uri.rstrip("/").rpartition("/")[2]
        return download(self._clients, uri, state_dir / "endpoint" / "artefacts" / name)

    def reporter(self) -> ReplicaReporter:
        return ReplicaReporter(self._clients, f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}")

    def announcer(self, url: str, pid: int | None) -> None:
        return None
