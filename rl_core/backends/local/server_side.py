"""What a prediction server on this machine finds in its bandit's state folder."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

from rl_core.backends.local.announcement import Announcement
from rl_core.errors import ConfigError
from rl_core.files import locked, write_atomically


class LocalServerSide:
    """`ServerSide` in a state folder."""

    poll_s = 0.1

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def salt(self, length: int) -> bytes:
        path = self._state_dir / "endpoint" / "salt"
        with locked(path.with_name("salt.lock"), "the endpoint's secret"):
            if not path.exists():
                write_atomically(path, secrets.token_bytes(length), mode=0o600)
            salt = path.read_bytes()
        if len(salt) != length:
            raise ConfigError(f"{path} holds {len(salt)} bytes, a salt has {length}; remove it and a new one is made")
        return salt

    def fetch(self, uri: str, version: str | None) -> Path:
        raise ConfigError(f"AIP_STORAGE_URI={uri!r}: a bandit with backend: local serves only a path or file://")

    def reporter(self) -> None:
        return None

    def announcer(self, url: str, pid: int | None) -> _Announcer:
        return _Announcer(self._state_dir, Announcement(url, pid, datetime.now(UTC).isoformat()))


class _Announcer:
    def __init__(self, state_dir: Path, announcement: Announcement) -> None:
        self._state_dir = state_dir
        self._announcement = announcement

    def __str__(self) -> str:
        return str(Announcement.path(self._state_dir))

    def write(self) -> None:
        self._announcement.write(self._state_dir)

    def remove(self) -> None:
        self._announcement.remove(self._state_dir)
