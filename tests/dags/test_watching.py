"""What people are told: one line of JSON that names the run, the reason and the next step."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from rl_core.config import Bandit

if TYPE_CHECKING:
    from tests.dags.conftest import Parse, Parsed

GOOGLE = {"project": "test-project", "alert_after_s": 5400.0}


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "bandit_ops.watching"]


def context_of(task: Any, **changes: Any) -> Any:
    ti = SimpleNamespace(dag_id=task.dag.dag_id, run_id="manual__1", task_id=task.task_id, try_number=3)
    return {"ti": ti, "task": task, **changes}


class TestAFailure:
    def test_is_one_line_with_run_reason_and_the_advice_that_fits(
        self, shipped: Parsed, caplog: pytest.LogCaptureFixture
    ) -> None:
        from bandit_ops.watching import log_failure

        task = shipped.dags["movielens_retrain"].get_task("take_lease")
        log_failure(context_of(task, exception=RuntimeError("movielens-v1\nis held by movielens_startup/manual__0")))
        (line,) = told(caplog)
        assert caplog.records[-1].levelno == logging.ERROR
        assert line["severity"] == "ERROR"
        assert (line["bandit"], line["dag"], line["run"]) == ("movielens", "movielens_retrain", "manual__1")
        assert (line["task"], line["try"], line["job"]) == ("take_lease", 3, None)
        assert line["error"] == "movielens-v1 is held by movielens_startup/manual__0"
        assert "is held by" in line["advice"], "and not the one about half_life"

    def test_of_a_job_names_it_and_leads_to_its_page(self, shipped: Parsed, caplog: pytest.LogCaptureFixture) -> None:
        from bandit_ops.watching import log_failure

        task: Any = shipped.dags["movielens_retrain"].get_task("train.wait")
        task.job_id = "movielens-v1-retrain-0123456789ab-g0-a2"
        try:
            log_failure(context_of(task, exception=RuntimeError("trainer: DataError: no rows")))
        finally:
            task.job_id = None
        (line,) = told(caplog)
        assert line["job"] in line["link"]
        assert "clear `train.submit`" in line["advice"]

    def test_of_a_worker_that_was_killed_has_no_exception(
        self, shipped: Parsed, caplog: pytest.LogCaptureFixture
    ) -> None:
        from bandit_ops.watching import log_failure

        log_failure(context_of(shipped.dags["movielens_rollback"].get_task("promote")))
        (line,) = told(caplog)
        assert line["error"] == ""
        assert line["advice"].startswith("`promote`")

    def test_is_watched_for_in_every_task(self, shipped: Parsed) -> None:
        from bandit_ops.watching import log_failure

        tasks: list[Any] = [task for dag in shipped.dags.values() for task in dag.tasks]
        assert [task.task_id for task in tasks if log_failure not in (task.on_failure_callback or [])] == []


class TestADeadline:
    @pytest.fixture
    def cloud(self, add_bandit: Callable[..., Path]) -> Path:
        return add_bandit("cloudy", backend="gcp", runner="vertex", google=GOOGLE).parent.parent

    @pytest.mark.parametrize("noun", ["startup", "retrain"])
    def test_stands_on_dags_that_wait_for_a_pipeline_on_google_cloud(
        self, parse: Parse, cloud: Path, monkeypatch: pytest.MonkeyPatch, noun: str
    ) -> None:
        from airflow.sdk.definitions.callback import SyncCallback
        from airflow.serialization.serialized_objects import DagSerialization

        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
        dags = parse(cloud).dags
        alerts: Any = dags[f"cloudy_{noun}"].deadline
        (alert,) = alerts
        assert alert.interval == timedelta(seconds=5400)
        assert isinstance(alert.callback, SyncCallback), "Composer's triggerer has no plugins"
        assert DagSerialization.to_dict(dags[f"cloudy_{noun}"])
        assert not dags[f"movielens_{noun}"].deadline

    def test_is_left_out_where_the_executor_can_not_call_back(
        self, parse: Parse, cloud: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "airflow.example.OddExecutor")
        assert not parse(cloud).dags["cloudy_retrain"].deadline

    def test_that_was_missed_is_one_line(self, airflow_home: Path, caplog: pytest.LogCaptureFixture) -> None:
        from bandit_ops.watching import deadline_missed

        run = {"dag_id": "cloudy_retrain", "dag_run_id": "scheduled__1"}
        deadline_missed("cloudy", 5400.0, context={"dag_run": run, "deadline": {"id": "1"}})
        (line,) = told(caplog)
        assert (line["event"], line["dag"], line["run"]) == ("banditloop_late", "cloudy_retrain", "scheduled__1")

    @pytest.mark.parametrize(("age_s", "late"), [(5399, False), (5401, True)])
    def test_is_told_by_the_waiting_task_too(
        self, cloud_movielens: Bandit, caplog: pytest.LogCaptureFixture, airflow_home: Path, age_s: float, late: bool
    ) -> None:
        from bandit_ops.watching import warn_if_late

        google = cloud_movielens.google
        assert google is not None
        bandit = cloud_movielens.model_copy(update={"google": google.model_copy(update={"alert_after_s": 5400.0})})
        run = SimpleNamespace(start_date=datetime.now(UTC) - timedelta(seconds=age_s))
        ti = SimpleNamespace(dag_id="movielens_retrain", run_id="scheduled__1")
        context: Any = {"dag_run": run, "ti": ti}
        assert warn_if_late(bandit, context, "job-1") is late
        assert [line["job"] for line in told(caplog)] == ["job-1"] * late
