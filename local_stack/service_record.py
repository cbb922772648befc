"""Which processes serve and log a bandit, recorded on disk so that another program can find and stop them."""

from __future__ import annotations

import json
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Self

import psutil

from local_stack.processes import identified, identity, send
from rl_core.files import write_atomically

SERVICES = ("serve", "log")
"""In the order in which they are stopped: the logger sees the server's last events."""


class ServiceRecord:
    """`services-<bandit id>.json` under a BANDIT_HOME."""

    def __init__(self, home: Path, bandit_id: str) -> None:
        self._path = home / f"services-{bandit_id}.json"

    @classmethod
    def all_of(cls, home: Path) -> list[Self]:
        """Return every record there is, also of a bandit whose YAML is gone."""
        names = sorted(path.stem.removeprefix("services-") for path in home.glob("services-*.json"))
        return [cls(home, name) for name in names]

    def running(self) -> dict[str, psutil.Process]:
        """Return the live ones by service; a pid that now belongs to a stranger is left out."""
        found = {}
        for name, (pid, born) in self._identities().items():
            process = identified(pid, born)
            if process and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found[name] = process
        return {name: found[name] for name in SERVICES if name in found}

    def add(self, pids: Mapping[str, int]) -> None:
        """Record what was started, beside what is recorded already."""
        started = {name: identity(pid) for name, pid in pids.items()}
        write_atomically(self._path, json.dumps(self._identities() | started).encode())

    def stop(self, grace_s: float = 10, only: Collection[str] = SERVICES) -> None:
        """Send SIGTERM to one after the other, wait, SIGKILL what is left."""
        for process in [process for name, process in self.running().items() if name in only]:
            send(signal.SIGTERM, [process])
            _, alive = psutil.wait_procs([process], timeout=grace_s)
            send(signal.SIGKILL, alive)
            psutil.wait_procs(alive, timeout=5)
        if not self.running():
            self._path.unlink(missing_ok=True)

    def _identities(self) -> dict[str, tuple[int, float]]:
        if not self._path.exists():
            return {}
        return {name: (pid, born) for name, (pid, born) in json.loads(self._path.read_text()).items()}
