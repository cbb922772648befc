"""The reports of the server's replicas: gs://<bucket>/<bandit id>/endpoint/replicas/<id>.json.

Vertex AI hides its replicas behind one address, so nobody can ask a single one; each writes down how it does.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from rl_core.backends.gcp.artefacts import ROLE
from rl_core.backends.gcp.server_clock import ServerClock
from rl_core.errors import EndpointError
from rl_core.google_cloud.clients import GoogleClients
from rl_core.google_cloud.failures import explained

LIVE_S = 60.0
_TIMEOUT_S = 10.0
_SWEPT_AFTER = timedelta(days=1)


class ReplicaReporter:
    """Writes one replica's report to Cloud Storage.

    Args:
        replica_id: unique among all replicas there ever were.
    """

    def __init__(self, clients: GoogleClients, replica_id: str) -> None:
        self._clients = clients
        self._blob = clients.bucket.blob(f"{folder(clients)}{replica_id}.json")
        self._blob.cache_control = "no-store"
        self._swept = False

    def report(self, state: dict[str, Any]) -> None:
        """Write the server's state. Raises EndpointError."""
        with _explained(self._clients, f"report to {self._blob.name}"):
            self._blob.upload_from_string(
                json.dumps(state), content_type="application/json", timeout=_TIMEOUT_S, retry=_retry()
            )
        if not self._swept:
            self._swept = True
            self._sweep()

    def close(self) -> None:
        """Delete the report: this replica is gone. Raises EndpointError."""
        from google.api_core.exceptions import NotFound

        with _explained(self._clients, f"delete {self._blob.name}"):
            try:
                self._blob.delete(timeout=_TIMEOUT_S, retry=_retry())
            except NotFound:
                return

    def _sweep(self) -> None:
        """Forget replicas that were killed long ago."""
        from google.api_core.exceptions import NotFound

        with _explained(self._clients, f"list {folder(self._clients)}"):
            for blob in self._clients.storage.list_blobs(self._clients.names.bucket, prefix=folder(self._clients)):
                if self._blob.updated - blob.updated > _SWEPT_AFTER:
                    try:
                        blob.delete(if_generation_match=blob.generation, timeout=_TIMEOUT_S)
                    except NotFound:
                        continue


class Replicas:
    """The reports of live replicas: not older than LIVE_S by the clock of Cloud Storage, which stamped them."""

    def __init__(self, clients: GoogleClients) -> None:
        self._clients = clients
        self._clock = ServerClock(clients)
        self._read: dict[str, tuple[int, dict[str, Any]]] = {}

    def live(self) -> dict[str, dict[str, Any]]:
        """Return the live replicas' states by replica id. Raises EndpointError."""
        from google.api_core.exceptions import NotFound

        prefix, found = folder(self._clients), {}
        with _explained(self._clients, f"read gs://{self._clients.names.bucket}/{prefix}"):
            oldest = self._clock.now() - timedelta(seconds=LIVE_S)
            for blob in self._clients.storage.list_blobs(self._clients.names.bucket, prefix=prefix):
                if blob.updated < oldest:
                    continue
                generation, state = self._read.get(blob.name, (0, {}))
                if generation != blob.generation:
                    newest = self._clients.bucket.blob(blob.name)  # the one listed may be replaced by now
                    try:
                        state = json.loads(newest.download_as_bytes(timeout=_TIMEOUT_S, retry=_retry()))
                    except NotFound:  # it said goodbye
                        continue
                    self._read[blob.name] = int(newest.generation), state
                found[blob.name.removeprefix(prefix).removesuffix(".json")] = state
        return found


def live(clients: GoogleClients) -> dict[str, dict[str, Any]]:
    """Return the live replicas' states by replica id. Raises EndpointError."""
    return Replicas(clients).live()


def folder(clients: GoogleClients) -> str:
    """Name the folder of the reports in the bucket."""
    return f"{clients.names.folder}endpoint/replicas/"


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_TIMEOUT_S)


def _explained(clients: GoogleClients, what: str) -> Any:
    return explained(EndpointError, what, clients.names, ROLE)
