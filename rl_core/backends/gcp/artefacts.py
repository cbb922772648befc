"""Folders of immutable files in Cloud Storage: written once, fetched whole."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

from rl_core.errors import RegistryError
from rl_core.files import move_synced
from rl_core.google_cloud.clients import GoogleClients
from rl_core.google_cloud.failures import explained

ROLE = "roles/storage.objectUser on the bucket"
TIMEOUT_S = 30.0


def download(clients: GoogleClients, uri: str, into: Path) -> Path:
    """Fetch every object below `gs://bucket/prefix` into the folder `into`, which appears whole or not at all.

    Raises:
        RegistryError: nothing lies there, or it can't be read.
    """
    bucket_name, _, prefix = uri.removeprefix("gs://").partition("/")
    prefix = prefix.rstrip("/") + "/"
    into.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{into.name}.", dir=into.parent) as incoming,
        explained(RegistryError, f"download {uri}", clients.names, ROLE),
    ):
        whole = Path(incoming) / "whole"
        found = 0
        for blob in clients.storage.list_blobs(bucket_name, prefix=prefix, timeout=TIMEOUT_S):
            if (relative := blob.name.removeprefix(prefix)) and not relative.endswith("/"):
                target = _inside(whole, relative, uri)
                target.parent.mkdir(parents=True, exist_ok=True)
                blob.download_to_filename(str(target), timeout=TIMEOUT_S)
                found += 1
        if not found:
            raise RegistryError(f"{uri}: nothing lies there; give the folder of a registered policy")
        try:
            move_synced(whole, into)
        except OSError:
            if not into.is_dir():  # else another process fetched the same meanwhile
                raise
    return into


def upload(clients: GoogleClients, folder: Path, prefix: str) -> None:
    """Store every file of `folder` below `prefix` of the bandit's bucket; what lies there already must be the same.

    Raises:
        RegistryError: other content lies there, or it can't be written.
    """
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        upload_file(clients, file, f"{prefix.rstrip('/')}/{file.relative_to(folder).as_posix()}")


def upload_file(clients: GoogleClients, file: Path, name: str) -> None:
    """Store one file as `upload` does. A file written before, also by the lost answer to this call, is success."""
    from google.api_core.exceptions import PreconditionFailed

    blob = clients.bucket.blob(name)
    with explained(RegistryError, f"upload gs://{clients.names.bucket}/{name}", clients.names, ROLE):
        try:
            blob.upload_from_filename(str(file), if_generation_match=0, timeout=TIMEOUT_S)
        except PreconditionFailed:
            blob.reload(timeout=TIMEOUT_S)
            if blob.crc32c != _crc32c(file):
                raise RegistryError(
                    f"gs://{blob.bucket.name}/{name} holds other content than {file}; artefacts are never replaced"
                ) from None


def _crc32c(file: Path) -> str:
    """As Cloud Storage writes it: big-endian, base64."""
    import google_crc32c

    checksum: Any = google_crc32c.Checksum(file.read_bytes())
    return base64.b64encode(checksum.digest()).decode()


def _inside(folder: Path, relative: str, uri: str) -> Path:
    target = folder / relative
    if ".." in Path(relative).parts:
        raise RegistryError(f"{uri}: object name {relative!r} leaves its folder")
    return target
