"""The forms of a bandit on Google Cloud that only people fill in: startup with provisioning, and teardown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from local_stack.airflow_stack import AirflowStack
from rl_core.config import Settings
from stand_ins.cloud import Cloud
from stand_ins.free_port import free_port
from tests.harness.patience import patient

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.airflow, pytest.mark.long]


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """An empty project."""
    with Cloud(tmp_path / "cloud") as cloud:
        yield cloud


@pytest.fixture
def stack(cloud: Cloud, settings: Settings, repo: Path, tmp_path: Path) -> Iterator[AirflowStack]:
    folder = shutil.copytree(repo / "dags", tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "bandits" / "movielens.yaml"
    written = yaml.safe_load(path.read_text())
    on_google = {"backend": "gcp", "runner": "vertex", "google": {"project": "test-project"}}
    path.write_text(yaml.safe_dump(written | on_google))
    variables = cloud.environment()
    led = {
        "airflow_port": free_port(),
        "google_endpoint": variables["BANDIT_GOOGLE_ENDPOINT"],
        "pubsub_emulator_host": variables["BANDIT_PUBSUB_EMULATOR_HOST"],
    }
    anonymous = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "test-project"}}
    options = cloud.vertex.environment | {"AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(anonymous)}
    made = AirflowStack(settings.model_copy(update=led), dags=folder, options=options)
    try:
        made.start(patient(180))
        made.wait_for_dags(["movielens_startup", "movielens_teardown", "movielens_provision"], patient(60))
        yield made
    finally:
        made.stop(grace_s=3)
        made.api.close()


def form_of(page: Page, stack: AirflowStack, noun: str) -> Locator:
    """Of a DAG that is unpaused already: the form would do it in the moment of triggering, see test_trigger_form.py."""
    stack.api.unpause(f"movielens_{noun}")
    page.goto(f"{stack.url}/dags/movielens_{noun}")
    page.get_by_test_id("trigger-dag-button").click()
    return page.get_by_role("dialog").filter(has_text="Trigger Dag")


def triggered(form: Locator, stack: AirflowStack, noun: str) -> dict[str, Any]:
    """The run that the button starts."""
    from playwright.sync_api import expect

    form.get_by_role("button", name="Trigger", exact=True).click()
    expect(form).to_be_hidden()
    (run,) = stack.api.runs(f"movielens_{noun}")
    return run


def test_startup_only_looks_where_provision_is_off_and_teardown_wants_the_prefix_typed(
    page: Page, stack: AirflowStack, cloud: Cloud, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    before = cloud.admin.everything()
    form = form_of(page, stack, "startup")
    expect(form.get_by_role("checkbox", name="Provision")).to_be_checked()
    expect(form.get_by_role("checkbox", name="Replace the champion")).not_to_be_checked()
    expect(form.get_by_role("spinbutton", name="Rounds")).to_have_value("200")
    expect(form.get_by_text("Make what is missing on Google Cloud.")).to_be_visible()
    page.screenshot(path=tmp_path / "startup.png")
    form.get_by_role("checkbox", name="Provision").press("Space")
    run = triggered(form, stack, "startup")
    assert run["conf"]["provision"] is False
    assert stack.api.wait_for_run("movielens_startup", run["dag_run_id"]) == "failed"
    log = stack.api.log("movielens_startup", run["dag_run_id"], "provision.check")
    assert "bucket test-project-movielens-v1: would be created" in log
    assert "movielens-v1 lacks" in log

    form = form_of(page, stack, "teardown")
    typed = form.get_by_role("group").filter(has_text="Type the prefix").get_by_role("textbox").last
    expect(typed).to_have_value("")
    expect(form.get_by_text("This field is required")).to_be_visible()
    page.screenshot(path=tmp_path / "teardown.png")
    typed.fill("something-else")
    typed.press("Tab")
    run = triggered(form, stack, "teardown")
    assert stack.api.wait_for_run("movielens_teardown", run["dag_run_id"]) == "failed"
    log = stack.api.log("movielens_teardown", run["dag_run_id"], "tear_down")
    assert (
        "'something-else' was typed to confirm, 'movielens' or 'movielens-v1' is asked for; nothing was touched" in log
    )
    assert cloud.admin.everything() == before
