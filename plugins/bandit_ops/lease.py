"""The training lease as a setup and its teardown: two trainings of one bandit never overlap.

The lease is short and renewed while the run's job is watched (see pipeline_tasks.py), so it lasts as long as the run
does, and one that nobody gave back is soon free.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from bandit_ops.job_identity import is_job_id
from bandit_ops.jobs import group_of, undecided_in_run
from bandit_ops.patience import PatientSensor
from bandit_ops.plans import Circumstances, NothingToDo, Planner, Refused
from bandit_ops.running import is_manual, meant_to_run
from bandit_ops.task import BanditTask
from rl_core.config import Bandit
from rl_core.errors import LeaseHeld, RegistryError, RunnerError

if TYPE_CHECKING:
    from airflow.sdk import Context

LEASE_WAIT_S = 60.0
"""How long a run waits for another training before it gives up."""

LEASE_TTL_S = 600.0
"""Longer than Airflow takes to replace a killed worker (task_instance_heartbeat_timeout: 300 s)."""

log = logging.getLogger(__name__)


class TakeLease(PatientSensor):
    """Take the lease, then decide what to submit: nobody else trains the windows of the plan meanwhile. XCom: the Plan.

    A lease that stays held skips a scheduled run and fails a manual one, naming the holder. Whoever has the lease is
    the one training: a job that an earlier run left behind is cancelled.
    """

    def __init__(self, *, bandit: Bandit, planner: Planner, **kwargs: Any) -> None:
        # Twice what it waits: giving up is decided here, by the kind of run, and never by the sensor's timeout.
        super().__init__(bandit=bandit, timeout=2 * LEASE_WAIT_S, **kwargs)
        self.planner = planner

    def look(self, context: Context, waited_s: float) -> PokeReturnValue:
        registry, store = self.open_registry(), self.open_store()
        holder = holder_of(context)
        try:
            registry.lease(holder, ttl_s(self.bandit))
        except LeaseHeld as held:
            self.log.info("waiting: %s", held)
            if waited_s >= LEASE_WAIT_S:
                raise _given_up(context, str(held)) from held
            return PokeReturnValue(is_done=False)
        try:
            at = Circumstances(self.bandit, context["params"], registry, store, is_manual(context))
            plan = self.planner(at)
            if not meant_to_run(context):
                raise Refused("the task was stopped while it took the lease")
            self._cancel_what_was_left()
        except BaseException as error:
            registry.release(holder)
            if isinstance(error, Refused):
                raise AirflowFailException(str(error)) from None
            if isinstance(error, NothingToDo):
                raise AirflowSkipException(str(error)) from None
            raise
        return PokeReturnValue(is_done=True, xcom_value=plan)

    def _cancel_what_was_left(self) -> None:
        """Jobs of runs that are over, as when a task gave up on a healthy job, or its teardown had no answer."""
        runner = self.open_runner()
        try:
            for job_id in filter(is_job_id, runner.active()):
                if (status := runner.status(job_id)) is None or status.decided:
                    continue
                self.log.warning("cancelling %s, which an earlier run left active", job_id)
                runner.cancel(job_id)
        except RunnerError as error:
            self.log.warning("could not look for jobs that earlier runs left active: %s", error)


class ReleaseLease(BanditTask, BaseOperator):
    """Keeps the lease while a job of the run may still promote, as when cancelling failed; it ends by itself then."""

    def __init__(self, *, bandit: Bandit, after: BaseOperator, **kwargs: Any) -> None:
        super().__init__(bandit=bandit, **kwargs)
        self.group_id = group_of(after.task_id)

    def execute(self, context: Context) -> None:
        runner = self.open_runner()
        active = undecided_in_run(self.bandit, context, runner, self.group_id)
        if active:
            raise AirflowException(
                f"{active[0].job_id} is still active, so the lease is kept until it expires, in "
                f"{ttl_s(self.bandit) / 60:.0f} minutes at most; clear {self.group_id}.cancel_if_active to end the job"
            )
        self.open_registry().release(holder_of(context))


def renew_lease(task: BanditTask, context: Context) -> None:
    """Raises AirflowFailException where another training took the lease, after Airflow was away for too long."""
    try:
        task.open_registry().lease(holder_of(context), ttl_s(task.bandit))
    except LeaseHeld as held:
        raise AirflowFailException(f"this run lost the lease while nobody renewed it: {held}") from None
    except RegistryError as error:
        log.warning("the lease was not renewed, trying again with the next look: %s", error)


def ttl_s(bandit: Bandit) -> float:
    """A run looks at its job every poke_interval_s; two looks may fail."""
    return max(LEASE_TTL_S, 3 * bandit.retrain.poke_interval_s)


def holder_of(context: Context) -> str:
    return f"{context['ti'].dag_id}/{context['ti'].run_id}"


def _given_up(context: Context, why: str) -> AirflowException:
    if is_manual(context):
        return AirflowFailException(f"gave up after {LEASE_WAIT_S:.0f} s: {why}; clear this task to try again")
    return AirflowSkipException(f"gave up after {LEASE_WAIT_S:.0f} s: {why}")
