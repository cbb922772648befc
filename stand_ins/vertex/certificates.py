"""The certificate authority of this process; gRPC reads its roots once, so one serves every stand-in of a process."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

import grpc
import trustme

_lock = threading.Lock()
_kept: list[trustme.CA] = []


def authority(folder: Path) -> trustme.CA:
    """The authority kept in `folder`, so that clients of an earlier process still trust it; this process's, if it has
    one already.
    """
    certificate, key = folder / "ca.pem", folder / "ca.key"
    with _lock:
        if not _kept:
            known = certificate.exists() and key.exists()
            _kept.append(trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes()) if known else trustme.CA())
        ours = _kept[0]
    ours.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    ours.cert_pem.write_to_path(certificate)
    return ours


@cache
def credentials(ours: trustme.CA, host: str) -> grpc.ServerCredentials:
    """What a server has to show to be taken for `host`."""
    issued = ours.issue_cert(host)
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])
