"""Real server processes under load: swapped, restarted, stopped and killed, without a lost or doubled decision."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from rl_core.backends import open_backend
from rl_core.backends.local.announcement import Announcement
from rl_core.backends.local.http_client import over_http
from rl_core.config import Settings
from rl_core.errors import PolicyError
from rl_core.simulation.traffic import Traffic, simulate
from tests.harness.patience import patient, until

if TYPE_CHECKING:
    from tests.e2e.conftest import Site


ENOUGH = 300
"""Decisions that go through before something happens to the server."""


class Course:
    """Of traffic during which something happens: in the middle of it, however fast the machine is.

    Args:
        strike: happens at once when ENOUGH decisions are through.
        follow: begins then, beside the traffic.
    """

    def __init__(self, site: Site, strike: Callable[[], object], follow: Callable[[], None]) -> None:
        self._site, self._strike, self._follow = site, strike, follow
        self._through = 0
        self._struck, self._followed = threading.Event(), threading.Event()
        self._after = 0

    def run(self, decisions: int) -> Traffic:
        """Traffic of 8 users at a time."""
        return self._run(decisions, lambda: False)

    def run_on(self) -> Traffic:
        """Until `follow` is over and ENOUGH decisions more are through."""
        return self._run(1_000_000, lambda: self._followed.is_set() and self._after >= ENOUGH)

    def _run(self, decisions: int, stop: Callable[[], bool]) -> Traffic:
        connect = over_http(self._site.url)
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._beside)
            traffic = simulate(
                self._site.environment,
                connect,
                decisions,
                concurrency=8,
                seed=1,
                stop=stop,
                on_decisions=self._count,
            )
            following.result()
        return traffic

    def _count(self, decisions: int) -> None:
        self._through += decisions
        self._after += decisions if self._followed.is_set() else 0
        if self._through >= ENOUGH and not self._struck.is_set():
            self._strike()
            self._struck.set()

    def _beside(self) -> None:
        assert self._struck.wait(patient(60)), "too little traffic"
        try:
            self._follow()
        finally:
            self._followed.set()


def everything_once(site: Site, traffic: Traffic) -> None:
    decided = Counter(row["event_id"] for row in site.on_the_bus())
    assert set(decided.values()) == {1}
    assert set(traffic.acknowledged_ids) <= decided.keys()
    rewarded = {row["event_id"] for row in site.on_the_bus("rewards")}
    assert set(traffic.acknowledged_ids) == rewarded


def answers(site: Site) -> bool:
    try:
        return httpx.get(site.url() + "/health", trust_env=False, timeout=patient(30)).status_code == 200
    except httpx.TransportError:
        return False


class TestUnderLoad:
    def test_policies_are_swapped_without_a_failed_request(self, site: Site) -> None:
        versions = [site.promote(1)]
        site.serve()
        endpoint = open_backend(site.bandit, site.settings).endpoint()

        def promote_three() -> None:
            for seed in (2, 3, 4):
                version = site.register(seed)
                site.registry.stage(version)
                endpoint.load(version)
                site.registry.promote(version, versions[-1])
                endpoint.serve(version)
                versions.append(version)

        traffic = Course(site, lambda: None, promote_three).run_on()
        assert (traffic.ended_early, traffic.retries) == ("interrupted", 0)
        assert traffic.acknowledged == len(site.on_the_bus())
        everything_once(site, traffic)
        assert len(versions) == 4
        assert set(traffic.policy_versions) <= set(versions)
        assert set(traffic.policy_versions) >= {versions[0], versions[-1]}

    def test_a_killed_server_has_every_acknowledged_decision_on_the_bus_exactly_once(self, site: Site) -> None:
        site.promote(1)
        server = site.serve()

        def start_again() -> None:
            server.wait()
            site.serve()

        traffic = Course(site, server.kill, start_again).run(1500)
        assert traffic.acknowledged == 1500
        assert traffic.retries > 0
        everything_once(site, traffic)
        assert len(site.on_the_bus()) == 1500, "a retry is answered by what was logged before"

    def test_sigterm_lets_requests_in_flight_finish(self, site: Site) -> None:
        site.promote(1)
        server = site.serve()

        def start_again() -> None:
            assert server.wait(patient(10)) == 0
            assert not Announcement.path(site.state_dir).exists()
            site.serve()

        traffic = Course(site, server.terminate, start_again).run(1500)
        assert traffic.acknowledged == 1500
        everything_once(site, traffic)


class TestRestart:
    def test_the_same_event_id_gets_the_same_answer_and_unseen_ones_the_same_draw(self, site: Site) -> None:
        site.promote(1)
        server = site.serve()
        before = [site.ask(f"e{i}") for i in range(20)]
        server.terminate()
        server.wait()
        site.promote(2)
        site.serve()
        assert [site.ask(f"e{i}") for i in range(20)] == before
        assert len(site.on_the_bus()) == 20
        assert (site.state_dir / "endpoint" / "salt").stat().st_mode & 0o777 == 0o600


class TestStart:
    def test_listens_within_seconds_and_without_tensorflow(self, site: Site) -> None:
        site.promote(1)
        started = time.monotonic()
        server = site.serve()
        assert time.monotonic() - started < patient(10), "under 1 s on an idle machine"
        mapped = Path(f"/proc/{server.pid}/maps").read_text()
        assert "tensorflow" not in mapped
        assert httpx.get(site.url() + "/health", trust_env=False, timeout=patient(30)).json()["status"] == "ok"

    def test_where_its_address_cant_be_written_it_serves_and_writes_it_as_soon_as_it_can(self, site: Site) -> None:
        site.promote(1)
        in_the_way = Announcement.path(site.state_dir)
        in_the_way.mkdir(parents=True)
        server = site.run("serve", "--port", str(site.port))
        until(lambda: answers(site), "the server to answer")
        assert site.ask("e1")["policy_version"]
        in_the_way.rmdir()
        until(in_the_way.exists, "the address to be written")
        assert Announcement.read(site.state_dir).pid == server.pid

    def test_a_busy_port_is_one_line_that_names_the_port_and_the_setting(self, site: Site) -> None:
        site.serve()
        second = site.run("serve", "--port", str(site.port))
        output, _ = second.communicate(timeout=patient(30))
        assert second.returncode == 2
        assert f"error: port {site.port} on 127.0.0.1 is taken" in output
        assert "BANDIT_SERVER_PORT" in output
        assert "serving.port" in output
        assert output.count("\n") == 1

    def test_ctrl_c_ends_it_with_status_0(self, site: Site) -> None:
        server = site.serve()
        server.send_signal(signal.SIGINT)
        assert server.wait(patient(10)) == 0


class TestVertexContainer:
    def test_serves_the_artefact_of_the_storage_uri_on_the_given_port_and_routes(self, site: Site) -> None:
        version = site.register(1)
        given_port = site.port
        site.take_another_port()
        site.serve(
            AIP_HTTP_PORT=str(given_port),
            AIP_HEALTH_ROUTE="/alive",
            AIP_PREDICT_ROUTE="/v1/endpoints/7:predict",
            AIP_STORAGE_URI=f"file://{site.registry.path(version)}",
        )
        site.port = given_port
        assert httpx.get(site.url() + "/alive", trust_env=False, timeout=patient(30)).json()["champion"] == version
        observation = site.environment.observations_f32[0].tolist()
        response = site.post("/v1/endpoints/7:predict", {"instances": [{"observation": observation}]})
        assert response.json()["predictions"][0]["policy_version"] == version

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("AIP_STORAGE_URI", "gs://bucket/policy", "serves only a path or file://"),
            ("AIP_STORAGE_URI", "/no/such/folder", "can't be read"),
            ("AIP_HTTP_PORT", "http", "AIP_HTTP_PORT='http'"),
            ("AIP_PREDICT_ROUTE", "predict", "AIP_PREDICT_ROUTE='predict'"),
        ],
    )
    def test_a_variable_that_breaks_its_rule_is_one_line(self, site: Site, name: str, value: str, message: str) -> None:
        server = site.run("serve", "--port", str(site.port), **{name: value})
        output, _ = server.communicate(timeout=patient(30))
        assert server.returncode == 2
        assert output.startswith("error: ")
        assert message in output
        assert output.count("\n") == 1


class TestEndpoint:
    def test_a_damaged_policy_is_refused_with_the_servers_reason(self, site: Site) -> None:
        champion = site.promote(1)
        site.serve()
        damaged = site.register(2)
        manifest = site.registry.path(damaged) / "manifest.json"
        content = json.loads(manifest.read_text())
        content["probes"]["scores"][0][0] += 1.0
        manifest.write_text(json.dumps(content))
        endpoint = open_backend(site.bandit, site.settings).endpoint()
        site.registry.stage(damaged)
        with pytest.raises(PolicyError, match=rf"refused {damaged}: .*not the one that was registered"):
            endpoint.load(damaged)
        assert site.ask("x")["policy_version"] == champion


class TestWire:
    def test_a_chunked_body_without_end_is_refused_and_the_connection_closed(self, site: Site) -> None:
        site.promote(1)
        site.serve()
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        sent = 0
        with socket.create_connection(("127.0.0.1", site.port), timeout=patient(10)) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            try:
                while sent < 100_000_000:
                    connection.sendall(chunk)
                    sent += len(chunk)
            except OSError:
                pass
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413")
        assert sent < 4 * site.bandit.serving.max_body_bytes + 10_000_000, "the rest was not read"

    def test_a_client_that_hangs_up_in_the_middle_harms_nobody(self, site: Site) -> None:
        site.promote(1)
        server = site.serve()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", site.port), timeout=patient(10)) as connection:
                connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        site.ask("x")
        server.terminate()
        output, _ = server.communicate(timeout=patient(20))
        assert server.returncode == 0
        assert "Traceback" not in output

    def test_one_connection_carries_good_and_bad_requests(self, site: Site) -> None:
        site.promote(1)
        site.serve()
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=patient(10))
        for body, status in ((b"no", 400), (b"{}", 400), (b'{"instances": []}', 400)):
            connection.request("POST", "/predict", body)
            response = connection.getresponse()
            assert response.status == status
            assert list(json.loads(response.read())) == ["error"]
        connection.close()


@pytest.fixture
def ratings(settings: Settings) -> str:
    """A folder with a ratings file, so that no program looks for one on the network."""
    from rl_core.movielens.data import synthetic_path
    from rl_core.movielens.synthetic import write_synthetic

    write_synthetic(synthetic_path(settings.home))
    return str(synthetic_path(settings.home).parent)


class TestSimulatorProgram:
    def test_sends_its_users_and_reports(self, site: Site, ratings: str) -> None:
        site.promote(1)
        site.serve()
        program = site.run("simulate", "--decisions", "200", BANDIT_MOVIELENS_DIR=ratings)
        output, _ = program.communicate(timeout=patient(60))
        assert program.returncode == 0, output
        assert "200 of 200 users served" in output
        assert "acknowledged 200 of 200 decisions and 200 rewards" in output
        assert len(site.on_the_bus()) == len(site.on_the_bus("rewards")) == 200

    def test_ctrl_c_sends_the_rewards_of_the_served_and_reports(self, site: Site, ratings: str) -> None:
        site.promote(1)
        site.serve()
        program = site.run("simulate", "--decisions", "1000000", BANDIT_MOVIELENS_DIR=ratings)
        until(lambda: len(site.on_the_bus()) >= 50, "50 decisions")
        program.send_signal(signal.SIGINT)
        output, _ = program.communicate(timeout=patient(60))
        assert program.returncode == 130, output
        assert "ended early: interrupted" in output
        assert "Traceback" not in output
        assert len(site.on_the_bus()) == len(site.on_the_bus("rewards"))

    def test_without_a_server_says_how_to_start_one(self, site: Site) -> None:
        program = site.run("simulate")
        output, _ = program.communicate(timeout=patient(60))
        assert program.returncode == 2
        assert "error: no prediction server" in output
        assert "python -m rl_core serve" in output
