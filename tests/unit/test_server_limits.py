"""What the server does about clients that ask for too much, too slowly, or without the right to ask."""

from __future__ import annotations

import http.client
import json
import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from pydantic import SecretStr

from rl_core.backends import open_backend
from rl_core.backends.local.bus.mark import LOCK_FILE
from rl_core.backends.local.http_client import over_http
from rl_core.config import Bandit, ServingContainer, Settings
from rl_core.errors import ConfigError, EndpointError
from rl_core.files import PatientLock
from rl_core.serving import server as prediction_server
from rl_core.serving.http_protocol import MAX_HEAD_BYTES, max_connections
from rl_core.simulation.traffic import simulate
from tests.conftest import REPO
from tests.e2e.conftest import Site
from tests.harness.patience import patient, until

pytestmark = pytest.mark.process
TOKEN = "a-token-of-the-test-0123456789"


class Server:
    """A server process with these limits, and raw connections to it."""

    def __init__(self, site: Site, folder: Path, stack: ExitStack) -> None:
        self.site, self._folder, self._stack = site, folder, stack
        self.serving: dict[str, Any] = {"request_timeout_s": 1.0, "publish_deadline_s": 20.0}

    def start(self, **environment: str) -> Server:
        content = self.site.bandit.model_dump(mode="json")
        content["serving"] |= self.serving
        (path := self._folder / "movielens.yaml").write_text(yaml.safe_dump(content))
        self.site.bandit = Bandit.from_yaml(path)
        self.process = self.site.serve(BANDIT_DEFINITION=self.site.bandit.model_dump_json(), **environment)
        return self

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.site.port), timeout=patient(10))
        return self._stack.enter_context(closing(connection))

    @contextmanager
    def bus_held(self) -> Iterator[None]:
        """Nothing can be logged meanwhile, so whatever is asked stays at work."""
        with PatientLock(self.site.state_dir / "bus" / LOCK_FILE, 5):
            yield

    def body(self, event_id: str = "x") -> bytes:
        observation = self.site.environment.observations_f32[0].tolist()
        return json.dumps({"instances": [{"observation": observation, "event_id": event_id}]}).encode()

    def request(self, event_id: str = "x") -> bytes:
        body = self.body(event_id)
        return b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    def state(self, **headers: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(
            f"{self.site.url()}/state", headers=headers, trust_env=False, timeout=patient(30)
        ).json()
        return found


@pytest.fixture
def server(repo: Path, movielens: Bandit, settings: Settings, tmp_path: Path) -> Iterator[Server]:
    """For a test to start with limits of its own."""
    with ExitStack() as stack:
        yield _server(repo, movielens, settings, tmp_path, stack)


@pytest.fixture(scope="module", params=[None], ids=["open"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that runs, for several tests; with a token where the test is parametrised with one."""
    folder = tmp_path_factory.mktemp("server")
    bandit = Bandit.from_yaml(REPO / "dags" / "bandits" / "movielens.yaml")
    with ExitStack() as stack:
        server = _server(REPO, bandit, Settings(home=folder / "home"), folder, stack)
        yield server.start(**({"BANDIT_SERVER_TOKEN": request.param} if request.param else {}))


def _server(repo: Path, bandit: Bandit, settings: Settings, folder: Path, stack: ExitStack) -> Server:
    site = Site(repo, bandit, settings, stack)
    site.promote(1)
    return Server(site, folder, stack)


def nobody_listens(port: int) -> bool:
    """Whether a connection is refused."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=patient(2)).close()
    except ConnectionRefusedError:
        return True
    return False


def answer(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = response.read()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, json.loads(body)


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed it; waits for that."""
    try:
        return connection.recv(65536) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("started", [TOKEN], indirect=True, ids=["token"])
class TestTheToken:
    def test_is_asked_for_on_every_route_but_health(self, started: Server) -> None:
        for method, path in (
            *[("GET", path) for path in ("/", "/state", "/metrics", "/openapi.json", "/docs", "/nowhere", "/health/")],
            *[("POST", path) for path in ("/predict", "/reward", "/activate", "/nowhere")],
        ):
            response = httpx.request(
                method, started.site.url() + path, content=started.body(), trust_env=False, timeout=patient(30)
            )
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert "BANDIT_SERVER_TOKEN" in response.json()["error"]
        health = httpx.get(f"{started.site.url()}/health", trust_env=False, timeout=patient(30))
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
        assert started.state(authorization=f"Bearer {TOKEN}")["decisions"] == 0

    def test_is_taken_and_no_other(self, started: Server) -> None:
        def status(shown: str) -> int:
            connection = started.connect()
            connection.sendall(f"GET /state HTTP/1.1\r\nhost: x\r\nauthorization: {shown}\r\n\r\n".encode())
            return answer(connection)[0]

        for shown in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER {TOKEN}"):
            assert status(shown) == 200
        for shown in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer", "", "Bearer é"):
            assert status(shown) == 401

    def test_is_asked_for_before_the_body_is_read(self, started: Server) -> None:
        connection = started.connect()
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        assert answer(connection)[0] == 401

    def test_is_shown_by_our_own_clients(self, started: Server) -> None:
        site, settings = started.site, started.site.settings.model_copy(update={"server_token": SecretStr(TOKEN)})
        assert open_backend(site.bandit, settings).endpoint().state()["champion"] is not None
        traffic = simulate(site.environment, over_http(site.url, settings.server_token), 20, concurrency=2)
        assert traffic.complete
        with pytest.raises(EndpointError, match=r"401.*BANDIT_SERVER_TOKEN"):
            simulate(site.environment, over_http(site.url), 1)
        with pytest.raises(EndpointError, match="BANDIT_SERVER_TOKEN"):
            open_backend(site.bandit, site.settings).endpoint().state()


class TestTheTokensRules:
    @pytest.mark.parametrize(
        "token", ["short", "x" * 257, "sixteen chars or so", "sixteen-chars-or\n", "a-token-with-ümlaut"]
    )
    def test_that_breaks_its_rule_is_an_error_which_does_not_print_it(
        self, monkeypatch: pytest.MonkeyPatch, token: str
    ) -> None:
        monkeypatch.setenv("BANDIT_SERVER_TOKEN", token)
        with pytest.raises(
            ConfigError, match=rf"BANDIT_SERVER_TOKEN: .*got {len(token)} characters.*openssl"
        ) as raised:
            Settings.from_environment()
        told: list[BaseException | None] = [raised.value, raised.value.__cause__]
        assert not any(token in str(error) for error in told)

    def test_is_an_error_where_vertex_ai_asks(self, cloud_movielens: Bandit, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIP_HTTP_PORT", "8080")
        settings = Settings(server_token=SecretStr(TOKEN))
        with pytest.raises(ConfigError, match="BANDIT_SERVER_TOKEN is set in a container on Vertex AI"):
            prediction_server.main(cloud_movielens, settings, 0)

    def test_that_is_missing_where_others_can_ask_is_warned_of(
        self, movielens: Bandit, caplog: pytest.LogCaptureFixture
    ) -> None:
        def warnings(host: str, token: str | None) -> str:
            caplog.clear()
            bandit = movielens.model_copy(update={"serving": movielens.serving.model_copy(update={"host": host})})
            settings = Settings(server_token=SecretStr(token) if token else None)
            with caplog.at_level(logging.WARNING):
                prediction_server._check_who_may_ask(bandit, settings, ServingContainer())
            return caplog.text

        assert "set BANDIT_SERVER_TOKEN" in warnings("192.0.2.1", None)
        assert warnings("192.0.2.1", TOKEN) == warnings("127.0.0.1", None) == ""


class TestTime:
    @pytest.mark.parametrize(
        "sent",
        [b"P", b"POST /predict HTTP/1.1\r\nhost: x\r\n", b"POST /predict HTTP/1.1\r\ncontent-length: 9\r\n\r\n{"],
        ids=["request line", "head", "body"],
    )
    def test_a_request_that_does_not_end_is_408(self, started: Server, sent: bytes) -> None:
        begun, counted = time.monotonic(), started.state()["refused_requests"]
        connection = started.connect()
        connection.sendall(sent)
        status, headers, body = answer(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert "serving.request_timeout_s=1" in body["error"]
        assert 0.3 < time.monotonic() - begun < patient(5)
        assert closed(connection)
        assert started.state()["refused_requests"] == counted + 1

    def test_a_server_that_stood_still_itself_does_not_blame_its_client(self, started: Server) -> None:
        """As a machine does that is out of memory for a moment, or a container without a share of the processor."""
        connection, process = started.connect(), psutil.Process(started.process.pid)
        whole = started.request("while it stood still")
        connection.sendall(whole[:-1])
        time.sleep(0.3)  # it reads that, and waits for the rest
        process.suspend()
        try:
            connection.sendall(whole[-1:])
            time.sleep(1.5)
        finally:
            process.resume()
        assert answer(connection)[0] == 200

    @pytest.mark.parametrize("drip", [b"x", b"\r\n"], ids=["letters", "blank lines"])
    def test_dripping_does_not_buy_more_of_it(self, started: Server, drip: bytes) -> None:
        connection = started.connect()
        begun = time.monotonic()
        with suppress(OSError):  # broken pipe or reset
            while time.monotonic() - begun < patient(8):
                connection.sendall(drip)
                time.sleep(0.1)
        assert time.monotonic() - begun < patient(5)

    def test_a_connection_that_never_asks_is_closed_without_a_word(self, started: Server) -> None:
        connection = started.connect()
        assert connection.recv(65536) == b""

    def test_one_that_has_asked_may_stay(self, started: Server) -> None:
        connection = started.connect()
        for event_id in ("x", "y"):
            connection.sendall(started.request(event_id))
            assert answer(connection)[0] == 200
            time.sleep(1.2)


class TestSize:
    def test_a_head_that_is_too_long_is_431(self, started: Server) -> None:
        seen = 0
        for head in (
            b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_HEAD_BYTES + 1) + b"\r\n\r\n",
            b"GET /" + b"y" * (MAX_HEAD_BYTES + 1) + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
            b"GET / HTTP/1.1\r\nx: " + b"y" * 2_000_000,
        ):
            connection = started.connect()
            with suppress(OSError):  # closed before all of it was sent
                connection.sendall(head)
            with suppress(ConnectionResetError):
                status, headers, _ = answer(connection)
                assert (status, headers["connection"]) == (431, "close")
                seen += 1
        assert seen > 0

    def test_trailers_count_too(self, started: Server) -> None:
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
        connection = started.connect()
        with suppress(OSError):  # closed before all of it was sent
            connection.sendall(head + b"x: y\r\n" * (MAX_HEAD_BYTES // 2))
        assert answer(connection)[0] == 431

    def test_a_head_within_the_limit_is_read_whole(self, started: Server) -> None:
        connection = started.connect()
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 60_000 + b"\r\n\r\n")
        assert answer(connection)[0] == 200

    def test_large_bodies_share_a_memory_and_small_ones_do_not_wait_for_it(self, server: Server) -> None:
        server.serving |= {"request_timeout_s": 5.0, "max_body_bytes": 1_000_000}
        server.start()
        connections = [server.connect() for _ in range(10)]
        for connection in connections:
            with suppress(OSError):  # refused before all of it was sent
                connection.sendall(b"POST /predict HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n" + b" " * 900_000)
        refused = answered(connections, 1)  # or more of them: the bodies arrive side by side
        assert len(refused) < len(connections)
        for status, headers, body in refused:
            assert (status, headers["retry-after"]) == (503, "1")
            assert "too many large bodies" in body["error"]
        assert server.site.ask("small")["event_id"] == "small"


class TestConcurrency:
    def test_beyond_it_is_503_with_retry_after_and_counted(self, server: Server) -> None:
        server.serving = {"max_concurrency": 4, "publish_deadline_s": 20.0}
        server.start()
        connections = [server.connect() for _ in range(10)]
        with server.bus_held():
            for i, connection in enumerate(connections):
                connection.sendall(server.request(f"e{i}"))
            refused = answered(connections, 6)
        assert [status for status, _, _ in refused] == [503] * 6
        assert all(headers["retry-after"] == "1" for _, headers, _ in refused)
        assert "serving.max_concurrency is 4" in refused[0][2]["error"]
        assert server.state()["unavailable"] == 6

    def test_connections_are_fewer_than_descriptors(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            assert max_connections() == 128
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def answered(connections: list[socket.socket], count: int) -> list[tuple[int, dict[str, str], Any]]:
    """At least `count` answers, as they come."""
    left: list[socket.socket] = list(connections)
    found: list[tuple[int, dict[str, str], Any]] = []
    while len(found) < count:
        ready, _, _ = select.select(left, [], [], patient(10))
        assert ready, f"{len(found)} answers"
        for connection in ready:
            left.remove(connection)
            found.append(answer(connection))
    return found


def test_a_log_that_another_program_locks_is_waited_for_as_long_as_an_answer_may(server: Server) -> None:
    server.start()
    connection = server.connect()
    with server.bus_held():
        connection.sendall(server.request())
        time.sleep(7)
    assert answer(connection)[0] == 200


class TestTheEnd:
    def test_comes_in_time_with_slow_clients_and_what_is_at_work_is_answered(self, server: Server) -> None:
        server.serving = {"request_timeout_s": 60.0, "publish_deadline_s": 20.0}
        server.start()
        slow = [server.connect() for _ in range(20)]
        for connection in slow[:10]:
            connection.sendall(b"POST /predict HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")
        for connection in slow[10:]:
            connection.sendall(b"POST /pre")
        until(lambda: server.state()["requests"] == 10)
        at_work = server.connect()
        with server.bus_held():
            at_work.sendall(server.request("at work"))
            until(lambda: server.state()["requests"] == 11)
            os.kill(server.process.pid, signal.SIGTERM)
            started = time.monotonic()
            until(lambda: nobody_listens(server.site.port))
        assert answer(at_work)[0] == 200
        output, _ = server.process.communicate(timeout=patient(20))
        assert server.process.returncode == 0
        assert time.monotonic() - started < patient(15)
        assert answer(slow[0])[0] == 503
        assert "Traceback" not in output

    def test_an_answer_that_nobody_reads_is_counted_and_its_decision_logged(self, server: Server) -> None:
        server.serving = {"publish_deadline_s": 20.0}
        server.start()
        with server.bus_held():
            gone = socket.create_connection(("127.0.0.1", server.site.port), timeout=patient(10))
            gone.sendall(server.request("gone"))
            until(lambda: server.state()["requests"] == 1)
            gone.close()
            server.state()  # asked after the connection was closed: the server has seen that when it answers
        until(lambda: server.state()["undelivered"] > 0)
        assert server.state()["undelivered"] == 1
        assert [row["event_id"] for row in server.site.on_the_bus()] == ["gone"]
        assert (
            "banditloop_undelivered_total 1.0\n"
            in httpx.get(f"{server.site.url()}/metrics", trust_env=False, timeout=patient(30)).text
        )
