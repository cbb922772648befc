"""What people click in Airflow while both cores are kept busy: on PostgreSQL no lock turns it away or overwrites it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.harness.patience import patient

if TYPE_CHECKING:
    from tests.faults.conftest import World

pytestmark = [pytest.mark.airflow, pytest.mark.slow]
PEOPLE = 4
DAG = """
import random, time
from datetime import datetime
from airflow.sdk import DAG, task

with DAG("clicked", schedule=None, start_date=datetime(2024, 1, 1), max_active_runs=PEOPLE):
    @task
    def ends_any_moment():
        time.sleep(random.random())
    ends_any_moment()
""".replace("PEOPLE", str(PEOPLE))
TASK = "ends_any_moment"


@pytest.fixture
def busy_cores() -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for other in others:
        other.kill()
        other.wait()


class Person:
    """Asks once, as a browser does."""

    def __init__(self, world: World) -> None:
        head = {"Authorization": f"Bearer {world.stack.api.token()}"}
        url = f"{world.stack.url}/api/v2/dags/clicked"
        self._client = httpx.Client(base_url=url, headers=head, timeout=patient(120), trust_env=False)

    def clicks(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._client.request(method, path, json=body)
        assert answer.is_success, f"{answer.status_code} to {method} {path}: {answer.text}"
        return answer.json()

    def spends_a_while(self, rounds: int) -> list[str]:
        """Trigger runs and mark each task as failed about when it ends by itself; clear the first, and mark its run."""
        marked = []
        for _ in range(rounds):
            run_id = str(self.clicks("POST", "/dagRuns", {"logical_date": None})["dag_run_id"])
            self.waits_until_it_runs(run_id)
            self.clicks("PATCH", f"/dagRuns/{run_id}/taskInstances/{TASK}", {"new_state": "failed"})
            marked.append(run_id)
        cleared = {"dry_run": False, "dag_run_id": marked[0], "task_ids": [TASK], "only_failed": False}
        self.clicks("POST", "/clearTaskInstances", {**cleared, "reset_dag_runs": True})
        self.clicks("PATCH", f"/dagRuns/{marked[0]}", {"state": "failed"})
        self._client.close()
        return marked[1:]

    def waits_until_it_runs(self, run_id: str) -> None:
        while self.clicks("GET", f"/dagRuns/{run_id}/taskInstances/{TASK}")["state"] in (None, "scheduled", "queued"):
            time.sleep(0.2)


@pytest.mark.parametrize("rounds", [3, pytest.param(8, marks=pytest.mark.long)])
def test_are_answered_and_stay(world: World, busy_cores: None, rounds: int) -> None:
    assert world.stack.database_url().startswith("postgresql"), "SQLite has no such promise"
    (world.settings.home.parent / "dags" / "clicked.py").write_text(DAG)
    world.stack.wait_for_dags(["clicked"])
    world.stack.api.unpause("clicked")
    with ThreadPoolExecutor(PEOPLE) as people:
        marked = [
            run for runs in people.map(lambda _: Person(world).spends_a_while(rounds), range(PEOPLE)) for run in runs
        ]
    for run_id in marked:
        world.stack.api.wait_for_run("clicked", run_id)
    states = {run_id: world.stack.api.task_states("clicked", run_id)[TASK] for run_id in marked}
    assert set(states.values()) == {"failed"}, states
