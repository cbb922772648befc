"""A pipeline in a DAG is three tasks: `submit >> wait >> cancel_if_active`.

- `submit` names the job (see job_identity.py), cancels what an older generation left running, and starts it: seconds.
- `wait` looks at the job every few seconds and holds no worker slot in between.
- `cancel_if_active` is a teardown: it runs whatever happened, and ends jobs that somebody stopped waiting for.

Retries. A retried `submit` attaches to a job that is active, returns one that succeeded, and starts the next attempt
after one that failed or was cancelled. A job that fails makes `wait` fail; the retry of `wait` starts the next attempt
with its first look, so retries of `wait` are retries of the pipeline, while a retry that only replaces a killed worker
attaches. A cancelled job is a person's will: `wait` fails for good, as every task does where the runner refuses what it
is asked (wrong project, missing permission). Where the runner gives no answer, `wait` goes on asking. Clearing any of
the tasks clears `submit` with it (Airflow clears a setup with what it serves), which begins a new generation.

The lease. Where a TakeLease is among the setups, `submit` and every look of `wait` renew it. A run that finds it taken
by another training gives up for good, and its teardown cancels the job.

Stopping. A person can mark a task failed while its worker is between "submit" and "submitted"; the teardown would look
too early. So whoever starts a job asks Airflow afterwards whether it is still meant to run, and if not cancels the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue, TaskGroup
from airflow.sdk.exceptions import AirflowFailException

from bandit_ops.job_identity import JobIdentity, active_jobs, attempts, generation_of
from bandit_ops.jobs import active_in_run, group_of, identity_of
from bandit_ops.lease import TakeLease, renew_lease
from bandit_ops.links import PipelineRunLink
from bandit_ops.runners.base import JobState, PipelineRunner
from bandit_ops.running import meant_to_run
from bandit_ops.task import BanditTask
from bandit_ops.watching import warn_if_late
from rl_core.config import Bandit
from rl_core.errors import RunnerError, RunnerUnavailable

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.xcom_arg import XComArg

    from bandit_ops.plans import Plan

SUBMIT, WAIT, CANCEL = "submit", "wait", "cancel_if_active"


class JobReport(TypedDict):
    """What `submit` and `wait` hand on through XCom."""

    job_id: str
    state: str
    outputs: dict[str, Any]


class PipelineTasks(NamedTuple):
    submit: SubmitPipeline
    wait: WaitForPipeline
    cancel: CancelIfActive


def pipeline(
    bandit: Bandit, plan: Plan | XComArg, *, group_id: str, setups: Sequence[BaseOperator] = ()
) -> PipelineTasks:
    """The three tasks as a group.

    `setups` are upstream setup tasks; where one of them has run, the teardown runs too, even if `submit` itself died
    after it started a job. The teardown leaves on_failure_fail_dagrun off: on, it would be the run's last word, and a
    run whose `wait` failed would count as a success.
    """
    leased = any(isinstance(setup, TakeLease) for setup in setups)
    with TaskGroup(group_id, tooltip="one pipeline job: submit, wait, and cancel what nobody waits for"):
        submit = SubmitPipeline(task_id=SUBMIT, bandit=bandit, plan=plan, leased=leased)
        wait = WaitForPipeline(task_id=WAIT, bandit=bandit, plan=plan, leased=leased)
        cancel = CancelIfActive(task_id=CANCEL, bandit=bandit, submit_retries=submit.retries or 0)
        submit >> wait >> cancel.as_teardown(setups=[submit, *setups])
    return PipelineTasks(submit, wait, cancel)


class SubmitPipeline(BanditTask, BaseOperator):
    template_fields = ("plan", *BanditTask.template_fields)
    operator_extra_links = (PipelineRunLink(),)

    def __init__(self, *, bandit: Bandit, plan: Plan | XComArg, leased: bool = False, **kwargs: Any) -> None:
        super().__init__(bandit=bandit, **kwargs)
        self.plan = plan
        self.leased = leased
        self.job_id: str | None = None

    def execute(self, context: Context) -> JobReport:
        if self.leased:
            renew_lease(self, context)
        with for_good():
            return self._submit(context)

    def _submit(self, context: Context) -> JobReport:
        runner = self.open_runner()
        generation = generation_of(context["ti"].max_tries, self.retries or 0)
        first = identity_of(self.bandit, context, group_of(self.task_id)).of_generation(generation)
        for older in active_jobs(runner.status, first, range(first.generation)):
            self.log.info("cancelling %s, which an earlier generation left active", older.job_id)
            runner.cancel(older.job_id)
        job = self._current_job(context, runner, first)
        self.job_id = job.job_id
        status = runner.status(job.job_id)
        state = JobState.PENDING if status is None else status.state
        return {"job_id": job.job_id, "state": state.value, "outputs": {} if status is None else status.outputs}

    def _current_job(self, context: Context, runner: PipelineRunner, first: JobIdentity) -> JobIdentity:
        tried = attempts(runner.status, first)
        if not tried:
            return start(self, context, runner, first)
        last, status = tried[-1]
        if status.state in (JobState.FAILED, JobState.CANCELLED):
            self.log.info("%s ended %s; starting the next attempt", last.job_id, status.state)
            return start(self, context, runner, last.next_attempt())
        self.log.info("attached to %s, which is %s", last.job_id, status.state)
        return last


class WaitForPipeline(BanditTask, BaseSensorOperator):
    """XCom: the JobReport of the job that succeeded."""

    template_fields = ("plan", *BanditTask.template_fields)
    operator_extra_links = (PipelineRunLink(),)

    def __init__(self, *, bandit: Bandit, plan: Plan | XComArg, leased: bool = False, **kwargs: Any) -> None:
        kwargs.setdefault("poke_interval", bandit.retrain.poke_interval_s)
        kwargs.setdefault("timeout", bandit.retrain.run_timeout_s)
        super().__init__(bandit=bandit, mode="reschedule", **kwargs)
        self.plan = plan
        self.leased = leased
        self.job_id: str | None = None

    def poke(self, context: Context) -> PokeReturnValue:
        if self.leased:
            renew_lease(self, context)
        runner = self.open_runner()
        submit = f"{group_of(self.task_id)}.{SUBMIT}"
        submitted: JobReport | None = context["ti"].xcom_pull(task_ids=submit)
        if submitted is None:
            raise AirflowFailException(
                f"{submit} left no job to wait for (marked success by hand?); clear it to start one"
            )
        try:
            with for_good():
                tried = attempts(runner.status, JobIdentity.parse(submitted["job_id"]))
        except RunnerUnavailable as error:
            self.log.warning("the runner did not answer, asking again: %s", error)
            return PokeReturnValue(is_done=False)
        if not tried:
            raise AirflowFailException(f"{submitted['job_id']} is unknown to the runner; clear {submit} to start anew")
        job, status = tried[-1]
        self.job_id = job.job_id
        self.log.info("%s is %s", job.job_id, status.state)
        if not status.state.terminal:
            warn_if_late(self.bandit, context, job.job_id)
        if status.state is JobState.SUCCEEDED:
            report: JobReport = {"job_id": job.job_id, "state": status.state.value, "outputs": status.outputs}
            return PokeReturnValue(is_done=True, xcom_value=report)
        if status.state is JobState.CANCELLED:
            raise AirflowFailException(f"{job.job_id} was cancelled; clear {submit} to run it again")
        if status.state is JobState.FAILED:
            if not self._first_look_of_a_retry(context):
                reason = status.message or "no reason given"
                raise RunnerError(f"{job.job_id} failed: {reason}; see {runner.url(job.job_id)}")
            start(self, context, runner, job.next_attempt())
        if status.state is JobState.PAUSED:
            self.log.warning("%s is paused; resume or cancel it: %s", job.job_id, runner.url(job.job_id))
        return PokeReturnValue(is_done=False)

    def _first_look_of_a_retry(self, context: Context) -> bool:
        """A try that begins with a failed job is there to run the pipeline again; reschedules are counted per try."""
        return context["ti"].try_number > 1 and not context["task_reschedule_count"]


class CancelIfActive(BanditTask, BaseOperator):
    """XCom: the job ids it cancelled."""

    def __init__(self, *, bandit: Bandit, submit_retries: int, **kwargs: Any) -> None:
        super().__init__(bandit=bandit, **kwargs)
        self.submit_retries = submit_retries

    def execute(self, context: Context) -> list[str]:
        runner = self.open_runner()
        active = active_in_run(self.bandit, context, runner, group_of(self.task_id), self.submit_retries)
        for job in active:
            self.log.warning("cancelling %s: nobody waits for it any more", job.job_id)
            runner.cancel(job.job_id)
        return [job.job_id for job in active]


@contextmanager
def for_good() -> Iterator[None]:
    """What a runner refuses fails the task at once; what may pass (RunnerUnavailable) is tried again."""
    try:
        yield
    except RunnerUnavailable:
        raise
    except RunnerError as error:
        raise AirflowFailException(str(error)) from error


def start(
    task: SubmitPipeline | WaitForPipeline, context: Context, runner: PipelineRunner, job: JobIdentity
) -> JobIdentity:
    """Submit the job, then make sure that the task is still meant to run; cancel the job if it is not."""
    plan: Plan | None = task.plan  # type: ignore[assignment]  # rendered by now
    if plan is None:
        raise AirflowFailException("no plan came from upstream (marked success by hand?); clear the task that makes it")
    parameters = {**plan["parameters"], "bandit": task.bandit.job_json(), "job_id": job.job_id}
    with for_good():
        runner.submit(job.job_id, plan["pipeline"], parameters, enable_caching=plan["enable_caching"])
    task.log.info("submitted %s: %s", job.job_id, runner.url(job.job_id))
    if not meant_to_run(context):
        runner.cancel(job.job_id)
        raise AirflowFailException(f"{job.job_id} was cancelled: the task was stopped while it started the job")
    return job
