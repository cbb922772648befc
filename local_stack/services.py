"""Starts and stops the long-running side of one bandit, prediction server and event logger, as child processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from local_stack.service_record import SERVICES, ServiceRecord
from local_stack.signals import uninterrupted
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError, EndpointError
from rl_core.waiting import wait_for


class Services:
    """`serve` and `log` of `python -m rl_core`; whichever program stops them, they are found by their record."""

    def __init__(self, bandit_yaml: Path, bandit: Bandit, settings: Settings, env: Mapping[str, str]) -> None:
        self.bandit, self.settings = bandit, settings
        self.logs = settings.home / "logs" / bandit.id
        self._env, self._yaml = dict(env), bandit_yaml
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._record = ServiceRecord(settings.home, bandit.id)

    def start(self, timeout_s: float = 30) -> None:
        """Begin, and wait until both are there. Raises BanditError."""
        self.begin()
        self.wait(timeout_s)

    def begin(self, port: int | None = None) -> None:
        """Start what of the two does not run.

        Args:
            port: for the server; None lets it take its own.
        """
        running = self._record.running()
        self.logs.mkdir(parents=True, exist_ok=True)
        with uninterrupted():
            started = {name: self._spawn(name, port) for name in SERVICES if name not in running}
            self._children |= started
            self._record.add({name: child.pid for name, child in started.items()})

    def wait(self, timeout_s: float = 30) -> None:
        """Return once the server answers and the logger is at work.

        Raises BanditError naming what ended, with the last line that it logged.
        """
        backend = open_backend(self.bandit, self.settings)
        endpoint = backend.endpoint()

        def there() -> bool:
            for name, child in self._children.items():
                if child.poll() is not None:
                    ended = f"{self.bandit.name}: {name} ended with status {child.returncode}"
                    raise BanditError(f"{ended}: {self._last_line(name)}")
            with contextlib.suppress(EndpointError):
                return bool(endpoint.state() and backend.logger_lives())
            return False

        wait_for(there, timeout_s, f"server and logger of {self.bandit.name}; see {self.logs}", poll_s=0.1)

    def stop(self, grace_s: float = 10) -> None:
        """End both, the server first."""
        self._record.stop(grace_s)
        self.stop_started()

    def stop_started(self) -> None:
        """End what this object started; what ran before stays."""
        self._record.stop(only=self._children)
        for child in self._children.values():
            child.wait()

    def running(self) -> dict[str, psutil.Process]:
        """Return the live ones by service, `serve` and `log`."""
        return self._record.running()

    def _spawn(self, name: str, port: int | None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rl_core", name, str(self._yaml)]
        given = ["--port", str(port)] if name == "serve" and port is not None else []
        with (self.logs / f"{name}.log").open("ab") as out:
            return subprocess.Popen(
                [*command, *given],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _last_line(self, name: str) -> str:
        text = (self.logs / f"{name}.log").read_text(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else f"it logged nothing (status in {self.logs})"
