"""The task group `provision` and the DAG `…_teardown`: how they are wired, as whom they act, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from rl_core.backends import open_backend
from rl_core.backends.local.announcement import Announcement
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError, ProvisioningError

if TYPE_CHECKING:
    from airflow.sdk import DAG, Context

    from stand_ins.cloud import Cloud
    from tests.dags.conftest import Parse

pytestmark = pytest.mark.usefixtures("airflow_home")

PROVISIONER = "provisioner@test-project.iam.gserviceaccount.com"
RUNTIME = "composer@test-project.iam.gserviceaccount.com"
GOOGLE = {
    "project": "test-project",
    "provisioner": PROVISIONER,
    "impersonation_chain": [RUNTIME],
    "endpoint": {"deploy_mode": "model"},
}
GROUP = [f"provision.{part}" for part in ("check", "storage", "messaging", "identities", "functions", "endpoint")]


def context(**form: Any) -> Context:
    ti = SimpleNamespace(dag_id="cloudy_teardown", run_id="manual__1", map_index=-1)
    return cast("Context", {"ti": ti, "params": {"provision": True, "confirm": "cloudy", "force": False, **form}})


@pytest.fixture
def cloudy(add_bandit: Callable[..., Path]) -> Bandit:
    return Bandit.from_yaml(add_bandit("cloudy", backend="gcp", runner="vertex", google=GOOGLE))


class TestTheDags:
    @pytest.fixture
    def dags(self, parse: Parse, dags_folder: Path, cloudy: Bandit) -> dict[str, DAG]:
        parsed = parse(dags_folder)
        assert parsed.import_errors == {}
        return parsed.dags

    def test_of_a_cloud_bandit_begin_with_provisioning_one_task_after_the_other(self, dags: dict[str, DAG]) -> None:
        tasks = dags["cloudy_startup"].task_dict
        assert [task for task in tasks if task.startswith("provision.")] == GROUP
        for task, following in zip(GROUP, [*GROUP[1:], "take_lease"], strict=True):
            assert tasks[task].downstream_task_ids == {following}

    def test_include_one_that_provisions_a_bandit_that_serves_already(self, dags: dict[str, DAG]) -> None:
        assert list(dags["cloudy_provision"].task_dict) == GROUP
        assert dags["cloudy_provision"].params.dump() == {"provision": True}
        assert "movielens_provision" not in dags

    def test_of_a_local_bandit_have_none(self, dags: dict[str, DAG]) -> None:
        startup = dags["movielens_startup"]
        assert not [task for task in startup.task_ids if task.startswith("provision")]
        assert "provision" not in startup.params
        assert "provision" not in (startup.doc_md or "").partition("When this fails")[2]

    def test_only_provisioning_and_teardown_act_as_the_provisioner(self, dags: dict[str, DAG]) -> None:
        acting = {
            f"{dag.dag_id}.{task.task_id}": getattr(task, "impersonation_chain", None)
            for dag in dags.values()
            for task in dag.tasks
            if dag.dag_id.startswith("cloudy")
        }
        provisioner = {task for task, chain in acting.items() if chain == [PROVISIONER]}
        provisioning = {f"cloudy_{noun}.{task}" for noun in ("startup", "provision") for task in GROUP}
        assert provisioner == provisioning | {"cloudy_teardown.tear_down"}
        assert acting["cloudy_startup.take_lease"] == [RUNTIME]

    def test_take_connection_and_identity_from_the_yaml_and_both_may_be_templates(self, dags: dict[str, DAG]) -> None:
        tasks = [task for dag in dags.values() if dag.dag_id.startswith("cloudy") for task in dag.tasks]
        for task in tasks:
            if task.task_id != "announce_champion":  # which only passes on what it is told
                assert {"gcp_conn_id", "impersonation_chain"} <= set(task.template_fields), task.task_id
                assert getattr(task, "gcp_conn_id", None) == "google_cloud_default"

    def test_act_as_whom_they_are_told_to(self, cloudy: Bandit) -> None:
        from bandit_ops.provisioning import CheckProvisioning
        from bandit_ops.sensors import InteractionSensor

        for kind in (InteractionSensor, CheckProvisioning):
            task = kind(task_id="t", bandit=cloudy, gcp_conn_id="other", impersonation_chain=["{{ var.value.who }}"])
            assert (task.gcp_conn_id, task.impersonation_chain) == ("other", ["{{ var.value.who }}"])

    def test_keep_the_house_rules(self, dags: dict[str, DAG]) -> None:
        from tests.dags.test_house_rules import violations

        assert [p for dag in dags.values() for p in violations(dag, {"movielens", "cloudy"})] == []

    def test_ask_whether_to_provision_and_for_the_prefix(self, dags: dict[str, DAG]) -> None:
        assert dags["cloudy_startup"].params["provision"] is True
        assert dags["cloudy_teardown"].params.dump() == {"confirm": None, "force": False}


@pytest.fixture
def cloud(cloud: Cloud) -> Cloud:
    """With the service account that jobs run as."""
    cloud.admin.add(f"projects/test-project/serviceAccounts/{RUNTIME}", email=RUNTIME, uniqueId="1")
    return cloud


class TestProvisioningTasks:
    @pytest.fixture
    def run(self, cloudy: Bandit, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
        from bandit_ops import provisioning

        bundle = tmp_path / "cloudy.zip"
        bundle.write_bytes(b"functions")
        monkeypatch.setattr(provisioning, "bundle_of", lambda bandit: bundle)

        def all_tasks(**form: Any) -> None:
            provisioning.CheckProvisioning(task_id="check", bandit=cloudy).execute(context(**form))
            for part in provisioning._WITHIN:
                provisioning.ProvisionPart(task_id=part, bandit=cloudy, part=part).execute(context(**form))

        return all_tasks

    def test_make_everything_then_find_everything_then_take_it_away(
        self, run: Callable[..., None], cloud: Cloud, cloudy: Bandit, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from bandit_ops.provisioning import TearDown

        with pytest.raises(ProvisioningError, match=r"cloudy-v1 lacks .*bucket test-project-cloudy-v1"):
            run(provision=False)
        run()
        assert "bucket test-project-cloudy-v1: created" in capsys.readouterr().out
        assert f"serviceAccount:{RUNTIME}" in cloud.admin.members("projects/test-project", "roles/bigquery.jobUser")
        made = cloud.admin.everything()
        run(provision=False)
        run()
        assert cloud.admin.everything() == made

        tear_down = TearDown(task_id="tear_down", bandit=cloudy)
        tear_down.execute(context())
        assert cloud.admin.everything()["bindings"] == set()
        tear_down.execute(context())  # again: nothing is left, nothing fails

    def test_refuse_a_teardown_while_a_training_holds_the_lease(
        self, run: Callable[..., None], cloud: Cloud, cloudy: Bandit
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        from bandit_ops.provisioning import TearDown

        run()
        task = TearDown(task_id="tear_down", bandit=cloudy)
        task.open_registry().lease("cloudy_retrain/manual__0", 60)
        made = cloud.admin.everything()
        with pytest.raises(AirflowFailException, match=r"'cloudy_retrain/manual__0' holds .*Nothing was touched"):
            task.execute(context())
        assert cloud.admin.everything() == made
        task.execute(context(force=True))
        assert cloud.admin.everything()["bindings"] == set()

    def test_refuses_while_a_job_runs_and_cancels_it_when_forced(
        self, run: Callable[..., None], cloud: Cloud, cloudy: Bandit
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        from bandit_ops.provisioning import TearDown

        run()
        google = {**GOOGLE, "image": f"python-banditloop@sha256:{'0' * 64}"}
        imaged = Bandit.from_json(json.dumps(cloudy.model_dump(mode="json") | {"google": google}))
        task = TearDown(task_id="tear_down", bandit=imaged)
        cloud.vertex.pipelines.script("forgotten", ["RUNNING"])
        agent = {"agent_alpha": 0.2, "tikhonov_weight": 0.01, "half_life": 0.0}
        task.open_runner().submit(
            "forgotten-g0-a0",
            "retrain",
            {
                **agent,
                "bandit": imaged.job_json(),
                "windows": "[[0, 10]]",
                "champion": "",
                "full_retrain": False,
                "trigger": "manual",
                "job_id": "forgotten-g0-a0",
            },
        )
        with pytest.raises(AirflowFailException, match=r"job forgotten-g0-a0 is still active.*Nothing was touched"):
            task.execute(context())
        task.execute(context(force=True))
        assert task.open_runner().active() == []
        assert cloud.admin.everything()["bindings"] == set()


class TestTheTeardownOfALocalBandit:
    @pytest.fixture
    def tear_down(self, movielens: Bandit) -> Callable[..., None]:
        from bandit_ops.provisioning import TearDown

        task = TearDown(task_id="tear_down", bandit=movielens)
        return lambda **form: task.execute(context(**{"confirm": "movielens-v1", **form}))

    @pytest.fixture
    def state(self, movielens: Bandit, settings: Settings) -> Path:
        open_backend(movielens, settings).registry().lease("a run that ended", 1e-6)
        return settings.state_dir(movielens)

    def test_empties_its_folder_and_no_other(self, tear_down: Callable[..., None], state: Path) -> None:
        (state.parent / "other-v1").mkdir()
        tear_down()
        assert list(state.iterdir()) == []
        assert (state.parent / "other-v1").is_dir()
        tear_down(confirm="movielens")  # again

    def test_of_a_bandit_that_never_ran_does_nothing(self, tear_down: Callable[..., None]) -> None:
        tear_down()

    @pytest.mark.parametrize("typed", ["", "movielens-v2", "MOVIELENS", "yes"])
    def test_needs_the_prefix_to_be_typed(self, tear_down: Callable[..., None], state: Path, typed: str) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        with pytest.raises(AirflowFailException, match="was typed to confirm, 'movielens' or 'movielens-v1' is asked"):
            tear_down(confirm=typed, force=True)
        assert list(state.iterdir())

    def test_waits_for_a_training_unless_forced(
        self, tear_down: Callable[..., None], state: Path, movielens: Bandit, settings: Settings
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        open_backend(movielens, settings).registry().lease("movielens_retrain/manual__0", 60)
        with pytest.raises(AirflowFailException, match="'movielens_retrain/manual__0' holds the training lease"):
            tear_down()
        tear_down(force=True)
        assert list(state.iterdir()) == []

    def test_refuses_while_a_server_or_a_logger_lives_even_if_forced(
        self, tear_down: Callable[..., None], state: Path
    ) -> None:
        import os
        from datetime import UTC, datetime

        here = Announcement("http://127.0.0.1:1", os.getpid(), "now")
        here.write(state)
        with pytest.raises(ConfigError, match=r"in use: a prediction server answers at http://127\.0\.0\.1:1"):
            tear_down(force=True)
        here.remove(state)
        note = {"pid": 1, "at": datetime.now(UTC).isoformat(), "stopped": False}
        (state / "logger.json").write_text(json.dumps(note))
        with pytest.raises(ConfigError, match="in use: an event logger writes to it"):
            tear_down(force=True)
        (state / "logger.json").write_text(json.dumps({**note, "stopped": True}))
        tear_down(force=True)
        assert list(state.iterdir()) == []
