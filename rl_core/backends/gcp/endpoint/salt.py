"""The endpoint's secret in Cloud Storage: all replicas draw alike, so an event id has one draw wherever it arrives."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from rl_core.backends.gcp.failures import explained
from rl_core.errors import ConfigError

if TYPE_CHECKING:
    from rl_core.backends.gcp.clients import GoogleClients


def shared_salt(clients: GoogleClients, length: int) -> bytes:
    """Read the endpoint's salt, `length` random bytes that the first replica to ask makes. Raises ConfigError."""
    from google.api_core.exceptions import NotFound, PreconditionFailed

    names = clients.names
    name = f"{names.folder}endpoint/salt"
    place = f"gs://{names.bucket}/{name}"
    blob = clients.bucket.blob(name)
    with explained(ConfigError, f"read the endpoint's secret {place}", names, "roles/storage.objectUser on the bucket"):
        try:
            salt: bytes = blob.download_as_bytes()
        except NotFound:
            with suppress(PreconditionFailed):  # another replica's, or our own whose answer was lost
                blob.upload_from_string(secrets.token_bytes(length), if_generation_match=0)
            salt = blob.download_as_bytes()
    if len(salt) != length:
        raise ConfigError(f"{place} holds {len(salt)} bytes, a salt has {length}; remove it and a new one is made")
    return salt
