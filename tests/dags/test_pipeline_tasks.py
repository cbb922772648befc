"""What submit and wait do before they ask the runner, over a real registry; Airflow's context is a stub.

What they do with jobs is shown on a real Airflow, in tests/faults.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from bandit_ops.pipeline_tasks import PipelineTasks

pytestmark = pytest.mark.usefixtures("airflow_home")

HOLDER = "movielens_retrain/manual__1"


@pytest.fixture
def made(movielens: Bandit) -> Callable[[bool], PipelineTasks]:
    from airflow.sdk import DAG, BaseOperator

    from bandit_ops.lease import TakeLease
    from bandit_ops.pipeline_tasks import pipeline

    def make(leased: bool) -> PipelineTasks:
        with DAG("movielens_retrain", schedule=None):
            lease = TakeLease(task_id="take_lease", bandit=movielens, planner=cast(Any, None))
            setups: list[BaseOperator] = [lease] if leased else []
            return pipeline(movielens, cast(Any, None), group_id="train", setups=setups)

    return make


def by_hand() -> Context:
    """Of a run in which a person marked whatever came before as a success: there is no XCom."""
    ti = SimpleNamespace(dag_id="movielens_retrain", run_id="manual__1", map_index=-1, xcom_pull=lambda **_: None)
    kept: dict[str, Any] = {}
    store = SimpleNamespace(get=kept.get, set=kept.__setitem__)
    given = {"ti": ti, "dag_run": SimpleNamespace(clear_number=0), "task_state_store": store}
    return cast("Context", given)


def attempt(task: Any) -> str:
    """What the task says when it fails for good."""
    from airflow.sdk.exceptions import AirflowFailException

    task.retries = 2
    with pytest.raises(AirflowFailException) as failed:
        getattr(task, "poke", task.execute)(by_hand())
    return str(failed.value)


class TestAfterATaskThatAPersonMarkedSuccess:
    def test_wait_has_no_job_and_says_what_to_clear(self, made: Callable[[bool], PipelineTasks]) -> None:
        said = attempt(made(False).wait)
        assert said == "train.submit left no job to wait for (marked success by hand?); clear it to start one"

    def test_submit_has_no_plan_and_starts_nothing(
        self, made: Callable[[bool], PipelineTasks], movielens: Bandit, settings: Settings
    ) -> None:
        assert "no plan came from upstream (marked success by hand?)" in attempt(made(False).submit)
        assert not list((settings.state_dir(movielens)).glob("runs/*"))

    def test_nothing_is_announced(self, movielens: Bandit) -> None:
        from airflow.sdk.exceptions import AirflowSkipException

        from bandit_ops.assets import AnnounceChampion

        announce = AnnounceChampion(task_id="announce_champion", bandit=movielens, report=cast(Any, None))
        with pytest.raises(AirflowSkipException, match="no report came from upstream"):
            announce.execute(by_hand())


class TestTheLease:
    @pytest.mark.parametrize("task", ["submit", "wait"])
    def test_is_renewed_by_submit_and_by_every_look_of_wait(
        self, made: Callable[[bool], PipelineTasks], movielens: Bandit, settings: Settings, task: str
    ) -> None:
        open_backend(movielens, settings).registry().lease(HOLDER, 30)
        attempt(getattr(made(True), task))
        state = json.loads((settings.state_dir(movielens) / "registry" / "registry.json").read_bytes())
        assert state["lease"]["holder"] == HOLDER
        assert datetime.fromisoformat(state["lease"]["until"]) > datetime.now(UTC) + timedelta(minutes=9)

    @pytest.mark.parametrize("task", ["submit", "wait"])
    def test_lost_to_another_training_ends_the_run_before_anything_else(
        self, made: Callable[[bool], PipelineTasks], movielens: Bandit, settings: Settings, task: str
    ) -> None:
        open_backend(movielens, settings).registry().lease("movielens_startup/manual__0", 60)
        said = attempt(getattr(made(True), task))
        assert "lost the lease" in said
        assert "'movielens_startup/manual__0' holds the training lease" in said

    def test_is_nobodys_business_where_no_setup_takes_it(
        self, made: Callable[[bool], PipelineTasks], movielens: Bandit, settings: Settings
    ) -> None:
        attempt(made(False).wait)
        open_backend(movielens, settings).registry().lease("another", 60)
