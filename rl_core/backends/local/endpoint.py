"""The local endpoint: a prediction server on this machine, found through `endpoint/endpoint.json`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from pydantic import SecretStr

from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.errors import EndpointAbsent, EndpointError, PolicyError
from rl_core.files import write_atomically

_POLL_S = 0.05


@dataclass(frozen=True)
class Announcement:
    """Where a server listens: the content of `endpoint.json`; `pid` is None for a process in another container."""

    url: str
    pid: int | None
    started_at: str

    @staticmethod
    def path(state_dir: Path) -> Path:
        """Return where the announcement lies in a state folder."""
        return state_dir / "endpoint" / "endpoint.json"

    def write(self, state_dir: Path) -> None:
        """Write the announcement; the server does once it listens. Raises OSError."""
        path = self.path(state_dir)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(self)).encode())

    def remove(self, state_dir: Path) -> None:
        """Delete the announcement, unless another server's stands there by now."""
        try:
            if self.read(state_dir) == self:
                self.path(state_dir).unlink()
        except (EndpointError, FileNotFoundError):
            pass

    @classmethod
    def read(cls, state_dir: Path) -> Self:
        """Read the announcement. Raises EndpointError where there is none or its process is gone."""
        path = cls.path(state_dir)
        try:
            found = cls(**json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise EndpointAbsent(f"no prediction server: {path} is not there; {_start(state_dir)}") from error
        except (OSError, ValueError, TypeError) as error:
            raise EndpointError(f"{path}: not a server's announcement ({error}); {_start(state_dir)}") from error
        if found.pid is not None and not _alive(found.pid):
            raise EndpointError(f"{found.url}: its server (pid {found.pid}) is gone; {_start(state_dir)}")
        return found


def _start(state_dir: Path) -> str:
    return f"start the server that keeps its state in {state_dir} with: python -m rl_core serve <bandit>"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


class LocalEndpoint:
    """`Endpoint`: hands policies over through the registry's aliases and watches the server take them."""

    def __init__(self, state_dir: Path, registry: PolicyRegistry, token: SecretStr | None = None) -> None:
        self._state_dir = state_dir
        self._registry = registry
        self._token = token

    def url(self) -> str:
        """Return the server's base URL. Raises EndpointError."""
        return Announcement.read(self._state_dir).url

    def state(self) -> dict[str, Any]:
        import httpx  # the server, which imports this module, starts without it

        url = self.url()
        shown = {"authorization": f"Bearer {self._token.get_secret_value()}"} if self._token else {}
        try:
            response = httpx.get(f"{url}/state", headers=shown, timeout=5.0, trust_env=False)
            if response.status_code == HTTPStatus.UNAUTHORIZED:
                raise EndpointError(f"{url}/state: {response.json()['error']}")
            response.raise_for_status()
            state: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EndpointError(f"{url}/state: no answer ({error}); {_start(self._state_dir)}") from error
        return state

    def stage(self, version: str, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        self._state_by(deadline)  # nothing is staged where nobody would load it
        self._registry.stage(version)
        self._wait(version, "loaded", lambda state: version in state["loaded"], deadline, timeout_s)

    def wait_serving(self, version: str, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        self._wait(version, "served as champion", lambda state: state["champion"] == version, deadline, timeout_s)

    def _state_by(self, deadline: float) -> dict[str, Any]:
        """A server that was killed may be there again in a moment; one that was never started won't."""
        while True:
            try:
                return self.state()
            except EndpointAbsent:
                raise
            except EndpointError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_POLL_S)

    def _wait(
        self, version: str, what: str, reached: Callable[[dict[str, Any]], bool], deadline: float, timeout_s: float
    ) -> None:
        while True:
            state = self._state_by(deadline)
            if reached(state):
                return
            if (reason := state["refused"].get(version)) is not None:
                raise PolicyError(f"the endpoint refused {version}: {reason}")
            if time.monotonic() > deadline:
                raise EndpointError(
                    f"{self.url()}: {version} was not {what} within {timeout_s:g} s (champion: {state['champion']}, "
                    f"loaded: {', '.join(state['loaded']) or 'none'}); look at the server's log"
                )
            time.sleep(_POLL_S)
