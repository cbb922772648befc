"""What an SQLite error on the message bus means, and what to do about it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

_MEANINGS = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_IOERR": "the disk refused a read or a write; look at its free space and its health",
    "SQLITE_READONLY": "the file can't be written; look at its owner and mode, and at the mount",
    "SQLITE_CANTOPEN": "the file can't be opened; look at the folder's owner and mode",
    "SQLITE_PERM": "the file can't be opened; look at its owner and mode",
    "SQLITE_CORRUPT": "the file is damaged; stop server and event logger, keep the file, and start a new bus",
    "SQLITE_NOTADB": "the file is not a message bus; move it away",
}


def explain(error: Exception, path: Path, busy_timeout_s: float) -> str:
    """One line for BusError: the file, what happened, what to do."""
    name = str(getattr(error, "sqlite_errorname", ""))
    base = "_".join(name.split("_")[:2])  # SQLITE_IOERR_WRITE and the like say more than is needed
    if base in ("SQLITE_BUSY", "SQLITE_LOCKED"):
        return f"{path}: another process kept it locked for more than {busy_timeout_s:g} s; try again"
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return f"{path}: this bus was closed; open it again"
    meaning = _MEANINGS.get(base)
    return f"{path}: {meaning} ({error})" if meaning else f"{path}: {error}"
