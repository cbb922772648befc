"""A pipeline in a DAG is three tasks: `submit >> wait >> cancel_if_active`.

- `submit` names the job (see job_identity.py), cancels what an older generation left running, and starts it: seconds.
- `wait` looks at the job every few seconds until it has ended, and starts the next attempt where it failed.
- `cancel_if_active` is a teardown: it runs whatever happened, and ends jobs that somebody stopped waiting for.

Tries. The tries of the pipeline are the attempts in its job ids, ATTEMPTS at most; those of the tasks say nothing about
it, since a task that is tried again only attaches to the job it finds (see patience.py). A cancelled job is a person's
will: `wait` fails for good, as every task does where the runner refuses what it is asked (wrong project, missing
permission). Where the runner gives no answer, `wait` goes on asking. Clearing any of the tasks clears `submit` with it
(Airflow clears a setup with what it serves), which begins a new generation.

The lease. Where a TakeLease is among the setups, `submit` and every look of `wait` renew it. A run that finds it taken
by another training gives up for good, and its teardown cancels the job.

Outputs. They say what serves, so `wait` has them once the deployer has ended. What the job does then, the export, holds
nobody up, takes no lease, and is cancelled by nobody but a newer generation of the same run.

Stopping. A job is cancelled because a person marked a task or the run, because its time was over, or because another
training has the lease. A task that failed again and again gives up, but leaves its job alone, and says so: the job goes
on, the lease is kept until it expires, and whichever run takes the lease next cancels the job.
A person can mark a task failed while its worker is between "submit" and "submitted"; the teardown would look too early.
So whoever starts a job asks Airflow afterwards whether it is still meant to run, and if not cancels the job.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from airflow.sdk import BaseOperator, PokeReturnValue, TaskGroup
from airflow.sdk.exceptions import AirflowFailException

from bandit_ops.job_identity import JobIdentity, active_jobs, attempts
from bandit_ops.jobs import group_of, identity_of, undecided_in_run
from bandit_ops.lease import TakeLease, renew_lease
from bandit_ops.links import PipelineRunLink, page_of
from bandit_ops.patience import PatientSensor, PatientTask
from bandit_ops.runners.base import JobState, JobStatus, PipelineRunner
from bandit_ops.running import generation_of, meant_to_run
from bandit_ops.task import BanditTask
from bandit_ops.watching import warn_if_late
from rl_core.config import Bandit
from rl_core.errors import RunnerError, RunnerUnavailable

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.definitions.xcom_arg import XComArg

    from bandit_ops.plans import Plan

SUBMIT, WAIT, CANCEL = "submit", "wait", "cancel_if_active"
ATTEMPTS = 3
"""How often a pipeline that fails is run."""
GAVE_UP = "gave_up"
"""XCom of `submit` and `wait`: the generation in which the task failed although its job may be healthy."""


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
        cancel = CancelIfActive(task_id=CANCEL, bandit=bandit)
        submit >> wait >> cancel.as_teardown(setups=[submit, *setups])
    return PipelineTasks(submit, wait, cancel)


class SubmitPipeline(PatientTask, BaseOperator):
    template_fields = ("plan", *BanditTask.template_fields)
    operator_extra_links = (PipelineRunLink(),)

    def __init__(self, *, bandit: Bandit, plan: Plan | XComArg, leased: bool = False, **kwargs: Any) -> None:
        super().__init__(bandit=bandit, **kwargs)
        self.plan = plan
        self.leased = leased
        self.job_id: str | None = None

    def execute(self, context: Context) -> JobReport:
        with self.counting_failures(context), for_good():
            if self.leased:
                renew_lease(self, context)
            return self._submit(context)

    def gave_up(self, context: Context) -> None:
        context["ti"].xcom_push(key=GAVE_UP, value=generation_of(context))

    def _submit(self, context: Context) -> JobReport:
        runner = self.open_runner()
        first = identity_of(self.bandit, context, group_of(self.task_id)).of_generation(generation_of(context))
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
        if status.state in (JobState.FAILED, JobState.CANCELLED) and len(tried) < ATTEMPTS:
            self.log.info("%s ended %s; starting the next attempt", last.job_id, status.state)
            return start(self, context, runner, last.next_attempt())
        self.log.info("attached to %s, which is %s", last.job_id, status.state)
        return last


class WaitForPipeline(PatientSensor):
    """XCom: the JobReport of the job that succeeded, or has its outputs: it ends then by itself, well or not."""

    template_fields = ("plan", *BanditTask.template_fields)
    operator_extra_links = (PipelineRunLink(),)

    def __init__(self, *, bandit: Bandit, plan: Plan | XComArg, leased: bool = False, **kwargs: Any) -> None:
        super().__init__(bandit=bandit, timeout=bandit.retrain.run_timeout_s, **kwargs)
        self.plan = plan
        self.leased = leased
        self.job_id: str | None = None

    def look(self, context: Context, waited_s: float) -> PokeReturnValue:
        if self.leased:
            renew_lease(self, context)
        submit = f"{group_of(self.task_id)}.{SUBMIT}"
        submitted: JobReport | None = context["ti"].xcom_pull(task_ids=submit)
        if submitted is None:
            raise AirflowFailException(
                f"{submit} left no job to wait for (marked success by hand?); clear it to start one"
            )
        runner = self.open_runner()
        try:
            with for_good():
                tried = attempts(runner.status, JobIdentity.parse(submitted["job_id"]))
        except RunnerUnavailable as error:
            self.log.warning("the runner did not answer, asking again: %s", error)
            return PokeReturnValue(is_done=False)
        if not tried:
            raise AirflowFailException(f"{submitted['job_id']} is unknown to the runner; clear {submit} to start anew")
        job, status = tried[-1]
        page = self._show(context, job, status)
        if status.state is JobState.SUCCEEDED or status.outputs:
            report: JobReport = {"job_id": job.job_id, "state": status.state.value, "outputs": status.outputs}
            self.log.info("%s; see %s", _verdict(status.outputs), page)
            if status.state in (JobState.FAILED, JobState.CANCELLED):
                self.log.warning("after that: %s; clear %s to do what is missing", status.message, submit)
            return PokeReturnValue(is_done=True, xcom_value=report)
        if status.state is JobState.CANCELLED:
            raise AirflowFailException(f"{job.job_id} was cancelled; clear {submit} to run it again; see {page}")
        if status.state is JobState.FAILED:
            reason = f"{job.job_id} failed: {status.message or 'no reason given'}; see {page}"
            if len(tried) >= ATTEMPTS:
                raise AirflowFailException(f"{len(tried)} attempts failed, the last one: {reason}")
            self.log.warning("%s; starting the next attempt", reason)
            start(self, context, runner, job.next_attempt())
        if status.state is JobState.PAUSED:
            self.log.warning("%s is paused; resume or cancel it: %s", job.job_id, page)
        return PokeReturnValue(is_done=False)

    def _show(self, context: Context, job: JobIdentity, status: JobStatus) -> str:
        """Say what the job does and where to look, once for each job; the task's link leads there from now on."""
        page = page_of(self.bandit, context["ti"].dag_id, job.job_id)
        if self.job_id != job.job_id:
            self.job_id = job.job_id
            self.log.info("%s is %s; see %s", job.job_id, status.state, page)
            context["ti"].xcom_push(key=PipelineRunLink().xcom_key, value=page)
        if not status.state.terminal:
            warn_if_late(self.bandit, context, job.job_id)
        return page

    def gave_up(self, context: Context) -> None:
        context["ti"].xcom_push(key=GAVE_UP, value=generation_of(context))


class CancelIfActive(BanditTask, BaseOperator):
    """XCom: the job ids it cancelled."""

    def execute(self, context: Context) -> list[str]:
        runner, group = self.open_runner(), group_of(self.task_id)
        active = undecided_in_run(self.bandit, context, runner, group)
        gave_up = context["ti"].xcom_pull(task_ids=[f"{group}.{SUBMIT}", f"{group}.{WAIT}"], key=GAVE_UP)
        cancelled = []
        for job in active:
            if job.generation in gave_up:
                self.log.warning(
                    "%s goes on: nobody asked for its end, the task that watched it failed; see %s",
                    job.job_id,
                    page_of(self.bandit, context["ti"].dag_id, job.job_id),
                )
                continue
            self.log.warning("cancelling %s: nobody waits for it any more", job.job_id)
            runner.cancel(job.job_id)
            cancelled.append(job.job_id)
        return cancelled


def _verdict(outputs: Mapping[str, Any]) -> str:
    """What came of the pipeline, in one line."""
    version, reason = outputs.get("version"), outputs.get("reason")
    return f"{version} was {'promoted' if outputs.get('promoted') else 'not promoted'}: {reason}"


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
    # Where cached outputs are damaged the last attempt mends it, also on Vertex AI, whose cache looks at no file.
    cached = plan["enable_caching"] and job.attempt < ATTEMPTS - 1
    with for_good():
        runner.submit(job.job_id, plan["pipeline"], parameters, enable_caching=cached)
    task.log.info("submitted %s; see %s", job.job_id, page_of(task.bandit, context["ti"].dag_id, job.job_id))
    if not meant_to_run(context):
        runner.cancel(job.job_id)
        raise AirflowFailException(f"{job.job_id} was cancelled: the task was stopped while it started the job")
    return job
