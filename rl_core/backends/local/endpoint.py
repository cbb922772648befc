"""The local endpoint: a prediction server on this machine, found through `endpoint/endpoint.json`."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from rl_core.backends.local.announcement import Announcement, start
from rl_core.errors import EndpointAbsent, EndpointError, PolicyError
from rl_core.waiting import looks

_POLL_S = 0.05


class LocalEndpoint:
    """`Endpoint`: the server follows the registry's aliases; this watches it take a policy."""

    def __init__(self, state_dir: Path, token: SecretStr | None = None) -> None:
        self._state_dir = state_dir
        self._token = token

    def url(self) -> str:
        """Return the server's base URL. Raises EndpointError."""
        return Announcement.read(self._state_dir).url

    def state(self) -> dict[str, Any]:
        import httpx  # not needed before somebody asks

        announced = Announcement.read(self._state_dir)
        url = announced.url
        shown = {"authorization": f"Bearer {self._token.get_secret_value()}"} if self._token else {}
        try:
            response = httpx.get(f"{url}/state", headers=shown, timeout=5.0, trust_env=False)
            if response.status_code == HTTPStatus.UNAUTHORIZED:
                raise EndpointError(f"{url}/state: {response.json()['error']}")
            response.raise_for_status()
            state: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EndpointError(f"{url}/state: no answer ({error}); {start(self._state_dir)}") from error
        if announced.pid is not None and state.get("pid", announced.pid) != announced.pid:
            # Ours was killed, and both its number and its port are another's by now.
            raise EndpointError(f"{url}: another server answers there by now; {start(self._state_dir)}")
        return state

    def load(self, version: str, timeout_s: float = 30.0) -> None:
        self._wait(version, "loaded", lambda state: version in state["loaded"], timeout_s)

    def serve(self, version: str, timeout_s: float = 30.0) -> None:
        self._wait(version, "served as champion", lambda state: state["champion"] == version, timeout_s)

    def _wait(self, version: str, what: str, reached: Callable[[dict[str, Any]], bool], timeout_s: float) -> None:
        """A server that was killed may be there again in a moment; one that was never started won't."""
        for left in looks(timeout_s, _POLL_S):
            try:
                state = self.state()
            except EndpointAbsent:
                raise
            except EndpointError:
                if not left:
                    raise
                continue
            if reached(state):
                return
            if (reason := state["refused"].get(version)) is not None:
                raise PolicyError(f"the endpoint refused {version}: {reason}")
        raise EndpointError(
            f"{self.url()}: {version} was not {what} within {timeout_s:g} s (champion: {state['champion']}, "
            f"loaded: {', '.join(state['loaded']) or 'none'}); look at the server's log"
        )
