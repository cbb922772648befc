"""The run page on a real Airflow. That it asks for a login is shown in tests/dags: this Airflow logs everybody in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.harness.patience import patient

if TYPE_CHECKING:
    from tests.faults.conftest import World

pytestmark = [pytest.mark.airflow, pytest.mark.long]


def test_a_task_links_to_its_run_and_to_no_other(world: World) -> None:
    api = world.stack.api
    run_id = world.trigger()
    assert world.end_of(run_id) == "success"
    for task in ("train.submit", "train.wait"):
        path = f"/dags/{world.dag_id}/dagRuns/{run_id}/taskInstances/{task}/links"
        url = api.request("GET", path)["extra_links"]["Pipeline run"]
        assert url.startswith(f"{world.stack.url}/banditloop/dags/{world.dag_id}/jobs/toy-v1-faults-")

        login = {"Authorization": f"Bearer {api.token()}"}
        page = httpx.get(url, headers=login, timeout=patient(30), trust_env=False)
        assert page.status_code == 200
        assert "SUCCEEDED" in page.text
        assert "deployer" in page.text
        log = httpx.get(f"{url}/files/log.txt", headers=login, timeout=patient(30), trust_env=False)
        assert log.status_code == 200
        assert "deployer" in log.text

        outside = f"{url}/files/..%2f..%2f..%2fairflow.cfg"
        assert httpx.get(outside, headers=login, timeout=patient(30), trust_env=False).status_code == 404
        other = url.replace(world.dag_id, "toy_other")
        assert httpx.get(other, headers=login, timeout=patient(30), trust_env=False).status_code == 404
