"""The local endpoint: a prediction server on this machine, found through `endpoint/endpoint.json`."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.backends.local.announcement import Announcement, start
from rl_core.errors import EndpointAbsent, EndpointError, PolicyError

_POLL_S = 0.05


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
        import httpx  # not needed before somebody asks

        url = self.url()
        shown = {"authorization": f"Bearer {self._token.get_secret_value()}"} if self._token else {}
        try:
            response = httpx.get(f"{url}/state", headers=shown, timeout=5.0, trust_env=False)
            if response.status_code == HTTPStatus.UNAUTHORIZED:
                raise EndpointError(f"{url}/state: {response.json()['error']}")
            response.raise_for_status()
            state: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EndpointError(f"{url}/state: no answer ({error}); {start(self._state_dir)}") from error
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
