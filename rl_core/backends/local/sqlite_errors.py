"""What an error of SQLite or of the disk on the message bus means, and what to do about it."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

_MEANINGS = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_IOERR": "the disk refused a read or a write; look at its free space and its health",
    "SQLITE_READONLY": "the file can't be written; look at its owner and mode, and at the mount",
    "SQLITE_CANTOPEN": "the file can't be opened; look at the folder's owner and mode",
    "SQLITE_PERM": "the file can't be opened; look at its owner and mode",
    "SQLITE_CORRUPT": "the file is damaged, and so is its journal; keep the folder, and start a new bus",
    "SQLITE_NOTADB": "the file is not a message bus; move it away",
    "ENOSPC": "the disk is full; free some space",
    "EDQUOT": "the quota of the disk is used up; free some space",
    "EFBIG": "a file may not become larger; raise the limit on file sizes (ulimit -f)",
    "EROFS": "the folder can't be written; look at the mount",
    "EACCES": "the folder can't be written; look at its owner and mode",
    "EPERM": "the folder can't be written; look at its owner and attributes",
}
_PASSING = {  # whatever else SQLite says is said about the content of its file
    "SQLITE_BUSY",
    "SQLITE_LOCKED",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_READONLY",
    "SQLITE_PERM",
    "SQLITE_NOMEM",
    "SQLITE_INTERRUPT",
    "SQLITE_PROTOCOL",
    "SQLITE_MISUSE",
    "SQLITE_CANTOPEN",
}


class Damage(Exception):
    """A copy of the bus is not what was written; the other one mends it."""


class Restarted(Damage):
    """The bus's file may be anything: a power cut can have come before it was on disk."""


class JournalDamage(Damage):
    """It is the journal."""


def is_damage(error: Exception) -> bool:
    if isinstance(error, Damage):
        return True
    if not isinstance(error, sqlite3.DatabaseError) or isinstance(error, sqlite3.ProgrammingError):
        return False
    name = str(getattr(error, "sqlite_errorname", ""))
    return name in ("SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_CORRUPTFS") or _base(name) not in _PASSING


def explain(error: Exception, path: Path, busy_timeout_s: float) -> str:
    """One line for BusError: the file, what happened, what to do."""
    base = _base(str(getattr(error, "sqlite_errorname", "")))
    if isinstance(error, OSError):
        base = errno.errorcode.get(error.errno or 0, "")
    if base in ("SQLITE_BUSY", "SQLITE_LOCKED"):
        return f"{path}: another process kept it locked for more than {busy_timeout_s:g} s; try again"
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return f"{path}: this bus was closed; open it again"
    meaning = _MEANINGS.get(base)
    return f"{path}: {meaning} ({error})" if meaning else f"{path}: {error}"


def _base(name: str) -> str:
    return "_".join(name.split("_")[:2])  # SQLITE_IOERR_WRITE and the like say more than is needed
