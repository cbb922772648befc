"""Tasks whose retries say nothing: they count by themselves what ends them. Airflow's context is a stub."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest

from bandit_ops.job_identity import JobIdentity
from bandit_ops.runners.base import JobState, JobStatus
from rl_core.config import Bandit
from rl_core.errors import RunnerUnavailable

if TYPE_CHECKING:
    from airflow.sdk import Context

pytestmark = pytest.mark.usefixtures("airflow_home")

RUN = ("movielens_retrain", "manual__1")
JOB = JobIdentity.of("movielens-v1", *RUN, "train")


class Run:
    """What Airflow keeps of one run: XComs, what a task remembers between tries, how often it was cleared."""

    def __init__(self) -> None:
        self.xcoms: dict[tuple[str, str], Any] = {("train.submit", "return_value"): {"job_id": JOB.job_id}}
        self.remembered: dict[str, Any] = {}
        self.cleared = 0

    def context(self, task_id: str) -> Context:
        def pull(task_ids: str | list[str], key: str = "return_value") -> Any:
            if isinstance(task_ids, str):
                return self.xcoms.get((task_ids, key))
            return [self.xcoms.get((task_id, key)) for task_id in task_ids]

        def push(key: str, value: Any) -> None:
            self.xcoms[task_id, key] = value

        dag_id, run_id = RUN
        ti = SimpleNamespace(dag_id=dag_id, run_id=run_id, map_index=-1, xcom_pull=pull, xcom_push=push)
        ti.get_first_reschedule_date = lambda _: None
        store = SimpleNamespace(get=self.remembered.get, set=self.remembered.__setitem__)
        run = SimpleNamespace(clear_number=self.cleared, start_date=None)
        return cast("Context", {"ti": ti, "dag_run": run, "task_state_store": store})


class Runner:
    """Jobs by id, as a runner tells of them; or no answer."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobStatus] = {}
        self.cached: list[bool] = []
        self.fault: Exception | None = None

    def status(self, job_id: str) -> JobStatus | None:
        if self.fault:
            raise self.fault
        return self.jobs.get(job_id)

    def submit(self, job_id: str, *_: Any, enable_caching: bool) -> None:
        self.cached.append(enable_caching)
        self.jobs[job_id] = JobStatus(JobState.RUNNING)

    def cancel(self, job_id: str) -> None:
        self.jobs[job_id] = JobStatus(JobState.CANCELLED)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    from bandit_ops import pipeline_tasks
    from bandit_ops.task import BanditTask

    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://127.0.0.1:8088")
    runner = Runner()
    monkeypatch.setattr(BanditTask, "open_runner", lambda self: runner)
    monkeypatch.setattr(pipeline_tasks, "meant_to_run", lambda context: True)
    return runner


@pytest.fixture
def look(movielens: Bandit, run: Run) -> Callable[[], Any]:
    """One try of `wait`, which looks once, in a process of its own."""
    from airflow.sdk import DAG

    from bandit_ops.pipeline_tasks import WaitForPipeline

    def once() -> Any:
        plan = {"pipeline": "retrain", "parameters": {}, "enable_caching": True}
        with DAG(RUN[0], schedule=None):
            wait = WaitForPipeline(task_id="train.wait", bandit=movielens, plan=cast(Any, plan))
        return wait.poke(run.context("train.wait"))

    return once


@pytest.fixture
def tear_down(movielens: Bandit, run: Run) -> Callable[[], list[str]]:
    from bandit_ops.pipeline_tasks import CancelIfActive

    cancel = CancelIfActive(task_id="train.cancel_if_active", bandit=movielens)
    return lambda: cancel.execute(run.context("train.cancel_if_active"))


def test_every_waiting_task_may_be_lost_ten_thousand_times(movielens: Bandit) -> None:
    from airflow.sdk import DAG

    from bandit_ops.pipeline_tasks import pipeline

    with DAG(RUN[0], schedule=None, default_args={"retries": 2}):
        tasks = pipeline(movielens, cast(Any, None), group_id="train")
    assert (tasks.submit.retries, tasks.wait.retries) == (10_000, 10_000)


class TestATaskThatIsLostAgainAndAgain:
    def test_still_waits_and_then_sees_the_end(self, run: Run, runner: Runner, look: Callable[[], Any]) -> None:
        runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING)
        assert not any(look() for _ in range(50))
        outputs = {"version": "movielens-v1-0002", "promoted": True, "reason": "better"}
        runner.jobs[JOB.job_id] = JobStatus(JobState.SUCCEEDED, "", outputs)
        assert look().xcom_value["outputs"] == outputs

    def test_waits_no_longer_for_that(
        self, run: Run, runner: Runner, look: Callable[[], Any], movielens: Bandit, tear_down: Callable[[], list[str]]
    ) -> None:
        from airflow.sdk.exceptions import AirflowSensorTimeout

        runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING)
        assert not look()
        over = timedelta(seconds=movielens.retrain.run_timeout_s + 1)
        run.remembered["memory-0"]["first_look"] = (datetime.now(UTC) - over).isoformat()
        with pytest.raises(AirflowSensorTimeout):
            look()
        assert tear_down() == [JOB.job_id], "its time is over"

    def test_begins_anew_once_a_person_has_cleared_it(self, run: Run, runner: Runner, look: Callable[[], Any]) -> None:
        runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING)
        look()
        run.remembered["memory-0"]["first_look"] = (datetime.now(UTC) - timedelta(days=1)).isoformat()
        run.cleared = 1
        assert not look()


def test_the_last_attempt_takes_nothing_from_the_cache_which_may_be_what_is_damaged(
    runner: Runner, look: Callable[[], Any]
) -> None:
    for attempt in range(2):
        runner.jobs[f"{JOB.job_id[:-1]}{attempt}"] = JobStatus(JobState.FAILED, "a shard is gone")
        assert not look()
    assert runner.cached == [True, False]


class TestATaskThatFailsItself:
    def test_fails_for_good_at_the_third_time_in_a_row_and_leaves_a_healthy_job_alone(
        self, runner: Runner, look: Callable[[], Any], tear_down: Callable[[], list[str]]
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING)
        runner.fault = KeyError("state")
        for _ in range(2):
            with pytest.raises(KeyError):
                look()
        with pytest.raises(AirflowFailException, match="failed 3 times in a row, the last time with: 'state'"):
            look()
        runner.fault = None
        assert tear_down() == []
        assert runner.jobs[JOB.job_id].state is JobState.RUNNING

    def test_may_fail_any_number_of_times_that_are_not_in_a_row(self, runner: Runner, look: Callable[[], Any]) -> None:
        runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING)
        for _ in range(5):
            runner.fault = KeyError("state")
            with pytest.raises(KeyError):
                look()
            runner.fault = None
            assert not look()

    def test_is_not_what_a_runner_without_an_answer_makes_of_it(self, runner: Runner, look: Callable[[], Any]) -> None:
        runner.fault = RunnerUnavailable("503")
        assert not any(look() for _ in range(10))


class TestAPipelineThatFails:
    def test_is_run_three_times_counted_by_its_job_ids_whatever_airflow_lost(
        self, run: Run, runner: Runner, look: Callable[[], Any]
    ) -> None:
        from airflow.sdk.exceptions import AirflowFailException

        runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING)
        for job in (JOB, JOB.next_attempt()):
            assert not any(look() for _ in range(3))
            runner.jobs[job.job_id] = JobStatus(JobState.FAILED, "seq 5 is missing (gap)")
            assert not look()
            assert runner.jobs[job.next_attempt().job_id].state is JobState.RUNNING
        last = JOB.next_attempt().next_attempt()
        runner.jobs[last.job_id] = JobStatus(JobState.FAILED, "seq 5 is missing (gap)")
        with pytest.raises(AirflowFailException) as failed:
            look()
        assert f"3 attempts failed, the last one: {last.job_id} failed: seq 5 is missing (gap); see http" in str(
            failed.value
        )
        assert len(runner.jobs) == 3


class TestAJobThatHasItsOutputs:
    OUTPUTS: ClassVar = {"version": "movielens-v1-0002", "promoted": True, "reason": "better"}

    def test_is_not_waited_for_and_not_cancelled(
        self, runner: Runner, look: Callable[[], Any], tear_down: Callable[[], list[str]]
    ) -> None:
        runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING, "", self.OUTPUTS)
        assert look().xcom_value["outputs"] == self.OUTPUTS
        assert tear_down() == []
        assert runner.jobs[JOB.job_id].state is JobState.RUNNING

    @pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
    def test_may_fail_after_that_which_is_said_and_undoes_nothing(
        self, runner: Runner, look: Callable[[], Any], capsys: pytest.CaptureFixture[str], state: JobState
    ) -> None:
        runner.jobs[JOB.job_id] = JobStatus(state, "exporter: MemoryError", self.OUTPUTS)
        assert look().xcom_value["outputs"] == self.OUTPUTS
        assert len(runner.jobs) == 1
        said = capsys.readouterr().out
        assert "movielens-v1-0002 was promoted: better" in said
        assert "after that: exporter: MemoryError; clear train.submit to do what is missing" in said


def test_a_job_that_a_person_stopped_waiting_for_is_cancelled(
    runner: Runner, look: Callable[[], Any], tear_down: Callable[[], list[str]]
) -> None:
    runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING)
    look()
    assert tear_down() == [JOB.job_id]
    assert runner.jobs[JOB.job_id].state is JobState.CANCELLED


def test_wait_says_version_verdict_and_page_also_in_its_link(
    run: Run, runner: Runner, look: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    runner.jobs[JOB.job_id] = JobStatus(JobState.RUNNING)
    look()
    page = run.xcoms["train.wait", "_link_PipelineRunLink"]
    assert page.startswith("http://")
    assert page.endswith(f"/banditloop/dags/movielens_retrain/jobs/{JOB.job_id}")
    outputs = {"version": "movielens-v1-0002", "promoted": False, "reason": "clearly worse"}
    runner.jobs[JOB.job_id] = JobStatus(JobState.SUCCEEDED, "", outputs)
    look()
    assert f"movielens-v1-0002 was not promoted: clearly worse; see {page}" in capsys.readouterr().out
