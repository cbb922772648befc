"""The state folder of a local bandit: it makes itself, and is emptied once nothing lives in it any more."""

from __future__ import annotations

import json
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rl_core.backends.contracts.backend import Part, Say
from rl_core.backends.local.announcement import Announcement, lives
from rl_core.errors import ConfigError, EndpointError

_LOGGER_SILENT = timedelta(seconds=30)
"""An event logger notes its state every two seconds, and every ten while it fails."""


class StateFolder:
    """`Provisioner` of a folder: programs make what they need in it when they first write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, *, may_make: bool) -> None: ...

    def verify(self, say: Say) -> None: ...

    def provision(self, part: Part, say: Say) -> None: ...

    def in_use(self) -> str | None:
        try:
            return f"a prediction server answers at {Announcement.read(self._folder).url}"
        except EndpointError:
            return "an event logger writes to it" if logger_lives(self._folder) else None

    def teardown(self, say: Say) -> None:
        """Raises ConfigError while something lives in it; then nothing was touched."""
        if not self._folder.exists():
            say(f"{self._folder}: is gone already")
            return
        if alive := self.in_use():
            raise ConfigError(f"{self._folder} is in use: {alive}; stop it first (make down). Nothing was touched")
        for entry in sorted(self._folder.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
            say(f"{entry}: removed")


def logger_lives(folder: Path) -> bool:
    """Tell whether an event logger is at work in a state folder: by its process here, elsewhere by its note's age."""
    try:
        noted = json.loads((folder / "logger.json").read_text())
        elsewhere = noted.get("host") != socket.gethostname()
        fresh = datetime.now(UTC) - datetime.fromisoformat(noted["at"]) < _LOGGER_SILENT
        return not noted["stopped"] and fresh and (elsewhere or lives(noted["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
