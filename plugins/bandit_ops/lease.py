"""The training lease as a setup and its teardown: two trainings of one bandit never overlap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from bandit_ops.plans import Circumstances, NothingToDo, Planner, Refused
from bandit_ops.running import meant_to_run
from rl_core.config import Bandit
from rl_core.errors import LeaseHeld

if TYPE_CHECKING:
    from airflow.sdk import Context

    from rl_core.backends.base import EventStore, PolicyRegistry

LEASE_WAIT_S = 60.0
"""How long a run waits for another training before it gives up."""


class TakeLease(BaseSensorOperator):
    """Take the lease, then decide what to submit: nobody else trains the windows of the plan meanwhile. XCom: the Plan.

    A lease that stays held skips a scheduled run and fails a manual one, naming the holder.
    """

    def __init__(self, *, bandit: Bandit, planner: Planner, **kwargs: Any) -> None:
        super().__init__(
            mode="reschedule", poke_interval=bandit.retrain.poke_interval_s, timeout=LEASE_WAIT_S, **kwargs
        )
        self.bandit = bandit
        self.planner = planner

    def poke(self, context: Context) -> PokeReturnValue:
        registry, store = open_registry_and_store(self.bandit)
        holder = holder_of(context)
        try:
            registry.lease(holder, self.bandit.retrain.run_timeout_s + LEASE_WAIT_S)
        except LeaseHeld as held:
            self.log.info("waiting: %s", held)
            if self._waited(context) >= LEASE_WAIT_S:
                raise _given_up(context, str(held)) from held
            return PokeReturnValue(is_done=False)
        try:
            at = Circumstances(self.bandit, context["params"], registry, store, is_manual(context))
            plan = self.planner(at)
            if not meant_to_run(context):
                raise Refused("the task was stopped while it took the lease")
        except BaseException as error:
            registry.release(holder)
            if isinstance(error, Refused):
                raise AirflowFailException(str(error)) from None
            if isinstance(error, NothingToDo):
                raise AirflowSkipException(str(error)) from None
            raise
        return PokeReturnValue(is_done=True, xcom_value=plan)

    def _waited(self, context: Context) -> float:
        first: datetime | None = context["ti"].get_first_reschedule_date(context)
        return 0.0 if first is None else (datetime.now(UTC) - first) / timedelta(seconds=1)


class ReleaseLease(BaseOperator):
    def __init__(self, *, bandit: Bandit, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bandit = bandit

    def execute(self, context: Context) -> None:
        registry, _ = open_registry_and_store(self.bandit)
        registry.release(holder_of(context))


def holder_of(context: Context) -> str:
    return f"{context['ti'].dag_id}/{context['ti'].run_id}"


def is_manual(context: Context) -> bool:
    return str(context["dag_run"].run_type).rpartition(".")[2].lower() == "manual"


def open_registry_and_store(bandit: Bandit) -> tuple[PolicyRegistry, EventStore]:
    """Opened in the task's own process: deltalake must not be inherited by a fork."""
    from rl_core.backends import open_registry, open_store
    from rl_core.config import Settings

    settings = Settings.from_environment()
    return open_registry(bandit, settings), open_store(bandit, settings)


def _given_up(context: Context, why: str) -> AirflowException:
    if is_manual(context):
        return AirflowFailException(f"gave up after {LEASE_WAIT_S:.0f} s: {why}; clear this task to try again")
    return AirflowSkipException(f"gave up after {LEASE_WAIT_S:.0f} s: {why}")
