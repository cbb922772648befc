"""The local endpoint as its callers see it: where it is found, and what is said where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rl_core.backends.local.announcement import Announcement
from rl_core.backends.local.endpoint import LocalEndpoint
from rl_core.errors import EndpointAbsent, EndpointError, PolicyError


class _State(BaseHTTPRequestHandler):
    answer: ClassVar[dict[str, Any]]

    def do_GET(self) -> None:
        body = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[type[_State]]:
    """A server whose GET /state answers what the test puts into `answer`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _State) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        Announcement(f"http://127.0.0.1:{http.server_port}", os.getpid(), "now").write(tmp_path)
        yield _State
        http.shutdown()
        thread.join()


@pytest.fixture
def endpoint(tmp_path: Path) -> LocalEndpoint:
    return LocalEndpoint(tmp_path)


def state(**fields: Any) -> dict[str, Any]:
    return {"champion": None, "challenger": None, "loaded": [], "refused": {}, **fields}


def _ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class TestWhereNobodyAnswers:
    def test_without_announcement_the_error_names_the_command_that_starts_the_server(
        self, endpoint: LocalEndpoint
    ) -> None:
        with pytest.raises(EndpointError, match=r"endpoint.json is not there; .*python -m rl_core serve <bandit>"):
            endpoint.state()

    def test_an_announcement_of_a_dead_process_is_stale(self, tmp_path: Path, endpoint: LocalEndpoint) -> None:
        pid = _ended_pid()
        Announcement("http://127.0.0.1:1", pid, "then").write(tmp_path)
        with pytest.raises(EndpointError, match=rf"its server \(pid {pid}\) is gone; .*rl_core serve"):
            endpoint.load("v-1", timeout_s=0.2)

    def test_a_port_that_refuses_is_named(self, tmp_path: Path, endpoint: LocalEndpoint) -> None:
        Announcement("http://127.0.0.1:1", os.getpid(), "now").write(tmp_path)
        with pytest.raises(EndpointError, match=r"http://127.0.0.1:1/state: no answer .*rl_core serve"):
            endpoint.state()

    def test_a_broken_announcement_is_named(self, tmp_path: Path, endpoint: LocalEndpoint) -> None:
        path = Announcement.path(tmp_path)
        path.parent.mkdir()
        for text in ("", "[]", '{"url": 1}'):
            path.write_text(text)
            with pytest.raises(EndpointError, match=r"endpoint.json: not a server's announcement"):
                endpoint.state()

    def test_a_server_takes_away_its_own_announcement_only(self, tmp_path: Path) -> None:
        mine, other = (Announcement(f"http://127.0.0.1:{port}", os.getpid(), "now") for port in (1, 2))
        mine.write(tmp_path)
        other.remove(tmp_path)
        assert Announcement.read(tmp_path) == mine
        mine.remove(tmp_path)
        assert not Announcement.path(tmp_path).exists()
        mine.remove(tmp_path)


class TestLoad:
    def test_returns_once_the_version_is_loaded(self, server: type[_State], endpoint: LocalEndpoint) -> None:
        server.answer = state(loaded=["v-1"])
        endpoint.load("v-1")

    def test_a_refused_version_is_a_policy_error_with_the_servers_reason(
        self, server: type[_State], endpoint: LocalEndpoint
    ) -> None:
        server.answer = state(refused={"v-1": "probe 3: action 2 scores 1.5"})
        with pytest.raises(PolicyError, match=r"the endpoint refused v-1: probe 3: action 2 scores 1.5"):
            endpoint.load("v-1")

    def test_a_version_that_never_comes_is_an_endpoint_error_in_time(
        self, server: type[_State], endpoint: LocalEndpoint
    ) -> None:
        server.answer = state(champion="v-0", loaded=["v-0"])
        with pytest.raises(EndpointError, match=r"v-1 was not loaded within 0.2 s \(champion: v-0, loaded: v-0\)"):
            endpoint.load("v-1", timeout_s=0.2)

    def test_where_none_was_ever_started_nothing_is_waited_for(self, endpoint: LocalEndpoint) -> None:
        with pytest.raises(EndpointAbsent):
            endpoint.load("v-1")

    def test_a_server_that_is_being_started_again_is_waited_for(
        self, tmp_path: Path, server: type[_State], endpoint: LocalEndpoint
    ) -> None:
        server.answer = state(loaded=["v-1"])
        running = Announcement.read(tmp_path)
        Announcement(running.url, _ended_pid(), "then").write(tmp_path)
        again = threading.Timer(0.2, running.write, [tmp_path])
        again.start()
        endpoint.load("v-1")
        again.join()


class TestServe:
    def test_returns_once_the_version_is_champion(self, server: type[_State], endpoint: LocalEndpoint) -> None:
        server.answer = state(champion="v-1", loaded=["v-1"])
        endpoint.serve("v-1")

    def test_loaded_is_not_enough(self, server: type[_State], endpoint: LocalEndpoint) -> None:
        server.answer = state(champion="v-0", loaded=["v-0", "v-1"])
        with pytest.raises(EndpointError, match="v-1 was not served as champion within"):
            endpoint.serve("v-1", timeout_s=0.2)
