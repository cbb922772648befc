"""Starts and stops the long-running side of one bandit, prediction server and event logger, as child processes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from local_stack.processes import identified, identity, send
from local_stack.signals import uninterrupted
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError, EndpointError
from rl_core.files import write_atomically
from rl_core.waiting import wait_for


class Services:
    """`serve` and `log` of `python -m rl_core`, recorded on disk so that another program can stop them."""

    def __init__(self, bandit_yaml: Path, bandit: Bandit, settings: Settings, env: Mapping[str, str]) -> None:
        self.bandit, self.settings = bandit, settings
        self.logs = settings.home / "logs"
        self._env = dict(env)
        self._commands = {name: [sys.executable, "-m", "rl_core", name, str(bandit_yaml)] for name in ("serve", "log")}
        self._children: list[subprocess.Popen[bytes]] = []
        self._record = settings.home / f"services-{bandit.id}.json"

    def start(self, timeout_s: float = 30) -> None:
        """Start both; return once the server answers. Raises BanditError with the last line a failed service logged."""
        if any(process.is_running() for process in self.processes()):
            raise BanditError(
                f"{self.bandit.name} is served already from {self.settings.home}; stop it first (make down)"
            )
        self.logs.mkdir(parents=True, exist_ok=True)
        with uninterrupted():
            started = {name: self._spawn(name, command) for name, command in self._commands.items()}
            self._children = list(started.values())
            recorded = {name: identity(child.pid) for name, child in started.items()}
            write_atomically(self._record, json.dumps(recorded).encode())
        endpoint = open_backend(self.bandit, self.settings).endpoint()

        def answers() -> bool:
            for name, child in started.items():
                if child.poll() is not None:
                    raise BanditError(f"{name} ended with status {child.returncode}: {self._last_line(name)}")
            with contextlib.suppress(EndpointError):
                return bool(endpoint.state())
            return False

        wait_for(answers, timeout_s, f"the prediction server to answer; see {self.logs}", poll_s=0.1)

    def stop(self, grace_s: float = 10) -> None:
        """Send SIGTERM, wait, SIGKILL what is left; the server goes first, so that the logger sees its last events."""
        for process in self.processes():
            send(signal.SIGTERM, [process])
            _, alive = psutil.wait_procs([process], timeout=grace_s)
            send(signal.SIGKILL, alive)
            psutil.wait_procs(alive, timeout=5)
        for child in self._children:
            child.wait()
        self._record.unlink(missing_ok=True)

    def processes(self) -> list[psutil.Process]:
        """Return the live ones, server first; a pid that now belongs to a stranger is left out."""
        found = []
        if self._record.exists():
            for pid, born in json.loads(self._record.read_text()).values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = identified(pid, born)
                    if process and process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process)
        return found

    def _spawn(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("ab") as out:
            return subprocess.Popen(
                command, env=self._env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def _last_line(self, name: str) -> str:
        text = (self.logs / f"{name}.log").read_text(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else f"it logged nothing (status in {self.logs})"
