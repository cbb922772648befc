"""Triggering `movielens_retrain` by hand in Airflow's UI, with a real browser on a real Airflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local_stack.airflow_stack import AirflowStack
from rl_core.config import Bandit, Settings
from stand_ins.free_port import free_port
from tests.harness.patience import patient

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.airflow, pytest.mark.long]


@pytest.fixture
def stack(settings: Settings, repo: Path, tmp_path: Path) -> Iterator[AirflowStack]:
    """Airflow with the shipped DAGs, whose gate waits 5 s: the DAG's own run goes first.

    The DAG is unpaused: the form would do it in the moment of triggering, and on SQLite two changes may hold each
    other up.
    """
    shutil.copytree(repo / "dags", tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    bandit = tmp_path / "dags" / "bandits" / "movielens.yaml"
    bandit.write_text(bandit.read_text().replace("gate_timeout_s: 120", "gate_timeout_s: 5"))
    made = AirflowStack(settings.model_copy(update={"airflow_port": free_port()}), dags=tmp_path / "dags")
    try:
        made.start(patient(180))
        made.wait_for_dags(["movielens_retrain"], patient(60))
        made.api.unpause("movielens_retrain")
        yield made
    finally:
        made.stop(grace_s=3)
        made.api.close()


def test_the_form_is_typed_and_described_and_starts_a_run(
    page: Page, stack: AirflowStack, movielens: Bandit, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    page.goto(f"{stack.url}/dags/movielens_retrain")
    page.get_by_test_id("trigger-dag-button").click()
    form = page.get_by_role("dialog").filter(has_text="Trigger Dag")
    switches = {"Skip the gate": False, "Full retrain": False, "Use the cache": True}
    numbers = {
        "Threshold": str(movielens.retrain.min_new_interactions),
        "α (agent_alpha)": f"{movielens.agent.agent_alpha:g}",
        "λ (tikhonov_weight)": f"{movielens.agent.tikhonov_weight:g}",
        "Half-life": f"{movielens.agent.half_life:g}",
    }
    for title, on in switches.items():
        expect(form.get_by_role("checkbox", name=title)).to_be_checked(checked=on)
    for title, value in numbers.items():
        expect(form.get_by_role("spinbutton", name=title)).to_have_value(value)
    expect(form.get_by_text("Width of the confidence bound: more explores more.")).to_be_visible()
    page.screenshot(path=tmp_path / "form.png")

    form.get_by_role("checkbox", name="Skip the gate").press("Space")
    expect(form.get_by_role("checkbox", name="Skip the gate")).to_be_checked()
    form.get_by_role("spinbutton", name="α (agent_alpha)").fill("0.5")
    form.get_by_role("spinbutton", name="α (agent_alpha)").press("Tab")
    form.get_by_role("button", name="Trigger", exact=True).click()
    expect(form).to_be_hidden()

    run = next(run for run in stack.api.runs("movielens_retrain") if run["run_type"] == "manual")
    assert run["conf"]["skip_gate"] is True, json.dumps(run["conf"])
    assert run["conf"]["agent_alpha"] == 0.5
    assert stack.api.wait_for_run("movielens_retrain", run["dag_run_id"]) == "success"
    log = stack.api.log("movielens_retrain", run["dag_run_id"], "gate")
    assert "nothing to train on; ask the server for decisions, or run movielens_startup" in log
