"""The small client of Airflow's API: what it asks again, and what it never does twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from local_stack import airflow_api
from local_stack.airflow_api import AirflowApi
from rl_core.errors import BanditError

DROP = 0
"""In the place of a status: the connection is closed without an answer."""


class Airflow:
    """Answers with these statuses, one after the other, then with 200."""

    def __init__(self) -> None:
        self.troubles: list[int] = []
        self.asked: Counter[str] = Counter()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                status = 200
                if self.path.startswith("/api/v2/"):
                    outer.asked[self.command] += 1
                    status = outer.troubles.pop(0) if outer.troubles else 200
                if status == DROP:
                    self.close_connection = True
                    return
                body = json.dumps({"access_token": "t", "dags": [], "status": status}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PATCH = answer  # noqa: N815  the names of http.server

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.api = AirflowApi(f"http://127.0.0.1:{self.server.server_port}")


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Airflow]:
    monkeypatch.setattr(airflow_api, "_PAUSE_S", 0.01)
    made = Airflow()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.api.close()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_a_question_without_an_answer_is_asked_again(airflow: Airflow) -> None:
    airflow.troubles = [DROP, 500, DROP]
    assert airflow.api.dags() == []
    assert airflow.asked["GET"] == 4


def test_a_question_that_is_never_answered_is_an_error_in_the_end(airflow: Airflow) -> None:
    airflow.troubles = [DROP] * 100
    with pytest.raises(httpx.TransportError):
        airflow.api.dags()
    assert airflow.asked["GET"] == 5


def test_a_change_that_was_turned_away_is_asked_for_again(airflow: Airflow) -> None:
    airflow.troubles = [500, 500]
    airflow.api.pause("d")
    assert airflow.asked["PATCH"] == 3


def test_a_change_that_may_have_been_made_is_not_asked_for_twice(airflow: Airflow) -> None:
    airflow.troubles = [DROP]
    with pytest.raises(httpx.TransportError):
        airflow.api.pause("d")
    assert airflow.asked["PATCH"] == 1


@pytest.mark.parametrize("status", [404, 500])
def test_what_airflow_refuses_is_told_in_its_own_words(airflow: Airflow, status: int) -> None:
    airflow.troubles = [status] * 100
    with pytest.raises(BanditError, match=f"Airflow answered {status} to PATCH /dags/d: .*access_token"):
        airflow.api.pause("d")


def test_health_that_is_no_health_is_an_error(airflow: Airflow) -> None:
    airflow.troubles = [503]
    with pytest.raises(httpx.HTTPError):
        airflow.api.health()
    assert airflow.api.health()["status"] == 200
