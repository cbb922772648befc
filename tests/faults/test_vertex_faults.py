"""Faults that happen to a run on Vertex AI, on a real Airflow and with the real client.

In each: at most one live job of the run at any moment, none left at the end, never a success that was not one. The same
faults happen to the provider's operator in `python -m reliability.fault_table`.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from reliability.fault_table.scenarios import SCENARIOS, Scenario, play
from reliability.fault_table.world import OURS, FaultWorld, Outcome, Run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.airflow

ALWAYS = ("none", "worker killed after submit, before the id is stored")
"""Also in `make test`: a run as it should be, and the fault by which the stock operator loses a job."""
TOGETHER = [
    pytest.param(scenario, id=scenario.name, marks=() if scenario.name in ALWAYS else pytest.mark.long)
    for scenario in SCENARIOS
    if scenario.to_all is None and not scenario.alone
]
ALONE = [scenario for scenario in SCENARIOS if scenario.alone]
AT_ONCE = 4


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, installed_on_vertex: FaultWorld) -> Iterator[dict[str, Future[Outcome]]]:
    """Runs whose faults touch nobody else happen at the same time: those that are asked for, and `ALWAYS`."""
    asked = {item.name for item in request.session.items if item.path == request.path}
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {
        scenario.name: pool.submit(play, installed_on_vertex, OURS, scenario)
        for scenario in SCENARIOS
        if scenario.name in ALWAYS or f"test_survives[{scenario.name}]" in asked
    }
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("scenario", TOGETHER)
def test_survives(played: dict[str, Future[Outcome]], scenario: Scenario) -> None:
    check(played[scenario.name].result(), scenario)


def test_what_a_run_hands_on_is_small_and_links_to_the_console(
    vertex_world: FaultWorld, played: dict[str, Future[Outcome]]
) -> None:
    run_id, api = played["none"].result().run_id, vertex_world.stack.api
    report = api.xcom(OURS.dag_id, run_id, "train.wait")
    assert report["state"] == "SUCCEEDED"
    assert report["outputs"] == {"version": "an output", "promoted": True, "reason": "an output"}
    assert len(json.dumps(report)) < 300
    for task in ("train.submit", "train.wait"):
        links = api.request("GET", f"/dags/{OURS.dag_id}/dagRuns/{run_id}/taskInstances/{task}/links")["extra_links"]
        page = "https://console.cloud.google.com/vertex-ai/locations/europe-west1/pipelines/runs"
        assert links["Pipeline run"] == f"{page}/{report['job_id']}?project=test-project"


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_survives_one_after_the_other_what_hits_everything(vertex_world: FaultWorld) -> None:
    run = vertex_world.begin(OURS)
    run.until_waiting()
    for scenario in SCENARIOS:
        if scenario.to_all is not None:
            scenario.to_all(vertex_world)
            run.until(partial(looked_again, run, run.looks()), f"a look at the job after: {scenario.name}")
    run.release()
    outcome = run.end()
    assert (outcome.jobs, outcome.run, outcome.most_at_once) == (("SUCCEEDED",), "success", 1)


@pytest.mark.long
@pytest.mark.parametrize("scenario", ALONE, ids=lambda scenario: scenario.name)
def test_survives_alone(vertex_world: FaultWorld, scenario: Scenario) -> None:
    check(play(vertex_world, OURS, scenario), scenario)


def looked_again(run: Run, looks: int) -> bool:
    return run.looks() > looks


def check(outcome: Outcome, scenario: Scenario) -> None:
    assert (outcome.jobs, outcome.run) == (scenario.jobs, scenario.run)
    assert outcome.most_at_once == 1
    assert outcome.left_running == 0
    assert not outcome.false_success
