"""Deletes what a local bandit keeps on this machine, once nothing runs in it any more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bandit_ops.runners.local import LocalRunner
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError, EndpointError

_LOGGER_SILENT = timedelta(seconds=30)
"""An event logger notes its state every two seconds, and every ten while it fails."""


def forget(bandit: Bandit, settings: Settings, say: Callable[[str], None]) -> None:
    """Delete the content of the state folder. Raises ConfigError, touching nothing, while something runs in it."""
    folder = settings.state_dir(bandit)
    if not folder.exists():
        say(f"{folder}: is gone already")
        return
    if alive := in_use(bandit, settings):
        raise ConfigError(f"{folder} is in use: {alive}; stop it first (make down). Nothing was touched")
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
        say(f"{entry}: removed")


def in_use(bandit: Bandit, settings: Settings) -> str | None:
    """Say what runs in the state folder (server, event logger or job); None where nothing does."""
    from rl_core.backends.local.endpoint import Announcement

    folder = settings.state_dir(bandit)
    try:
        return f"a prediction server answers at {Announcement.read(folder).url}"
    except EndpointError:
        pass
    if _logger_lives(folder / "logger.json"):
        return "an event logger writes to it"
    if jobs := LocalRunner(bandit, settings).active():
        return f"job {jobs[0]} runs"
    return None


def _logger_lives(state_file: Path) -> bool:
    """By the age of its note: its process may be in another container."""
    try:
        noted = json.loads(state_file.read_text())
        return not noted["stopped"] and datetime.now(UTC) - datetime.fromisoformat(noted["at"]) < _LOGGER_SILENT
    except (OSError, ValueError, KeyError, TypeError):
        return False
