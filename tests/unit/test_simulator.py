"""Simulated users against a scripted server: whose reward is sent, what is sent again, and when they give up."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
import pytest

from rl_core.backends.local.http_client import over_http
from rl_core.errors import EndpointError
from rl_core.movielens.environment import MovieLensEnvironment
from rl_core.simulation.traffic import Traffic, simulate

Requests = list[tuple[str, dict[str, Any]]]


class _Scripted(BaseHTTPRequestHandler):
    """Answers as the real server does, except where `trouble(number of the request)` gives a status."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet
    requests: ClassVar[Requests]
    trouble: ClassVar[Callable[[int], int | None]]

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).requests.append((self.path, content))
        status = type(self).trouble(len(self.requests)) or 200
        if status == 1:  # the connection breaks after the request was taken
            self.close_connection = True
            return
        predictions = [
            {"event_id": instance["event_id"], "action_id": f"movie-{i % 3 + 1}", "policy_version": "v-1"}
            for i, instance in enumerate(content.get("instances", []))
        ]
        body = json.dumps({"predictions": predictions} if status == 200 else {"error": "as the test wants it"}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[_Scripted], Callable[[], str]]]:
    _Scripted.requests, _Scripted.trouble = [], staticmethod(lambda number: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Scripted) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield _Scripted, lambda: f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def environment() -> MovieLensEnvironment:
    ratings = np.random.default_rng(0).integers(1, 6, size=(12, 5)).astype(float)
    return MovieLensEnvironment(ratings, rank_k=3, num_actions=3, noise_sd=0.5, seed=4)


def sent(requests: Requests, path: str, field: str) -> list[dict[str, Any]]:
    return [item for where, content in requests if where == path for item in content[field]]


class TestUsers:
    def test_arrive_in_a_program_whose_event_loop_runs_as_a_jupyter_kernel_does(
        self, server: Any, environment: MovieLensEnvironment
    ) -> None:
        async def cell() -> Traffic:
            return simulate(environment, over_http(server[1]), 20)

        assert asyncio.run(cell()).complete

    def test_send_the_reward_that_belongs_to_them_and_their_action(
        self, server: Any, environment: MovieLensEnvironment
    ) -> None:
        scripted, locate = server
        traffic = simulate(environment, over_http(locate), 60, concurrency=3, batch=2, seed=1)
        decided = {i["event_id"]: i["observation"] for i in sent(scripted.requests, "/predict", "instances")}
        rewarded = {r["event_id"]: r["reward"] for r in sent(scripted.requests, "/reward", "rewards")}
        assert len(decided) == 60
        assert decided.keys() == rewarded.keys() == set(traffic.acknowledged_ids)
        order = [i["event_id"] for i in sent(scripted.requests, "/predict", "instances")]
        actions = np.array([i % 2 for i in range(60)])
        users = environment.users_of(np.array([decided[e] for e in order], dtype=np.float32))
        expected = environment.rewards(users, actions, order)
        assert [rewarded[e] for e in order] == pytest.approx(expected.tolist(), abs=1e-9)
        assert traffic.mean_reward == pytest.approx(expected.mean())

    def test_say_that_they_are_simulated(self, server: Any, environment: MovieLensEnvironment) -> None:
        scripted, locate = server
        simulate(environment, over_http(locate), 1)
        assert scripted.requests[0][1]["parameters"] == {"source": "simulator"}

    def test_arrive_in_an_order_that_seed_and_round_determine(
        self, server: Any, environment: MovieLensEnvironment
    ) -> None:
        scripted, locate = server
        orders = []
        for seed, round in ((1, 0), (1, 0), (1, 1), (2, 0)):
            scripted.requests.clear()
            simulate(environment, over_http(locate), 30, concurrency=1, seed=seed, round=round)
            orders.append([i["observation"] for i in sent(scripted.requests, "/predict", "instances")])
        assert orders[0] == orders[1]
        assert orders[0] != orders[2] != orders[3] != orders[0]


class TestTrouble:
    @pytest.mark.parametrize("trouble", [503, 1], ids=["503", "a broken connection"])
    def test_the_same_event_is_sent_again(self, server: Any, environment: MovieLensEnvironment, trouble: int) -> None:
        scripted, locate = server
        scripted.trouble = staticmethod(lambda number: trouble if number in (1, 2, 8) else None)
        traffic = simulate(environment, over_http(locate), 20, concurrency=1)
        asked = [i["event_id"] for i in sent(scripted.requests, "/predict", "instances")]
        assert asked[0] == asked[1] == asked[2]
        assert len(set(asked)) == traffic.acknowledged == traffic.rewards_acknowledged == 20
        assert traffic.retries == 3

    def test_a_refusal_ends_it_in_the_servers_words(self, server: Any, environment: MovieLensEnvironment) -> None:
        scripted, locate = server
        scripted.trouble = staticmethod(lambda number: 400)
        with pytest.raises(EndpointError, match=r"/predict answered 400: .*as the test wants it"):
            simulate(environment, over_http(locate), 20)

    def test_patience_ends_and_what_was_acknowledged_counts(
        self, server: Any, environment: MovieLensEnvironment
    ) -> None:
        scripted, locate = server
        scripted.trouble = staticmethod(lambda number: 503 if number > 5 else None)
        traffic = simulate(environment, over_http(locate), 20, concurrency=1, patience_s=0.2)
        assert traffic.acknowledged == 5
        assert "gave up after 0.2 s" in str(traffic.ended_early)

    def test_a_server_that_is_not_there_is_waited_for(self, environment: MovieLensEnvironment) -> None:
        def nowhere() -> str:
            raise EndpointError("no prediction server: endpoint.json is not there")

        traffic = simulate(environment, over_http(nowhere), 5, patience_s=0.2)
        assert traffic.acknowledged == 0
        assert "endpoint.json is not there" in str(traffic.ended_early)

    def test_stopping_lets_the_rewards_of_served_users_go_out(
        self, server: Any, environment: MovieLensEnvironment
    ) -> None:
        _, locate = server
        served = 0

        def count(more: int) -> None:
            nonlocal served
            served += more

        traffic = simulate(
            environment, over_http(locate), 1000, concurrency=4, stop=lambda: served >= 21, on_decisions=count
        )
        assert 21 <= traffic.acknowledged < 30
        assert traffic.rewards_acknowledged == traffic.acknowledged
        assert traffic.ended_early == "interrupted"


def test_an_empty_traffic_has_a_summary() -> None:
    assert Traffic(3).mean_reward == 0.0
