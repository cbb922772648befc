"""Tasks that outlive any number of lost workers and lost looks. Why: docs/decisions/0014.

Airflow fails a task whose worker died, and a sensor that looked, left its worker and was called again before the
scheduler had dealt with the end of the first look (apache/airflow#71172: with every executor, at every interval).
Neither says anything about the pipeline. So these tasks have as many retries as it takes, and what ends them is counted
here instead: seconds since the first look, and failures in a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from bandit_ops.running import executors, generation_of
from bandit_ops.task import BanditTask
from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import Context

AS_MANY_AS_IT_TAKES = 10_000
"""`retries` of a patient task: at one lost worker a minute, a week."""

FAILURES = 3
"""In a row; then the task fails for good, as any task with two retries would."""


@dataclass
class Memory:
    """What a task knows of its earlier tries. One that a person cleared begins anew."""

    first_look: str
    failures: int = 0

    @property
    def waited_s(self) -> float:
        return (datetime.now(UTC) - datetime.fromisoformat(self.first_look)) / timedelta(seconds=1)


class PatientTask(BanditTask):
    """Counts its own failures, since Airflow's retries are spent on lost workers, too."""

    def __init__(self, *, bandit: Bandit, **kwargs: Any) -> None:
        super().__init__(bandit=bandit, **{**kwargs, "retries": AS_MANY_AS_IT_TAKES})

    @contextmanager
    def counting_failures(self, context: Context) -> Iterator[Memory]:
        """Raises AirflowFailException where the block fails for the third time in a row, else what the block raises."""
        store, key = context["task_state_store"], f"memory-{generation_of(context)}"
        kept: Any = store.get(key)
        memory = Memory(**kept) if kept else Memory(datetime.now(UTC).isoformat())
        if not kept:
            store.set(key, asdict(memory))
        try:
            yield memory
        except (AirflowFailException, AirflowSkipException):
            raise
        except Exception as error:
            memory.failures += 1
            store.set(key, asdict(memory))
            if memory.failures < FAILURES:
                raise
            self.gave_up(context)
            raise AirflowFailException(f"failed {FAILURES} times in a row, the last time with: {error}") from error
        if memory.failures:
            store.set(key, asdict(Memory(memory.first_look)))

    def gave_up(self, context: Context) -> None:
        """Called before the task fails because it failed too often, which says nothing about what it watches."""


class PatientSensor(PatientTask, BaseSensorOperator):
    """Looks until it finds what it waits for, or until `timeout` seconds have passed since its first look in any try.

    On one machine (LocalExecutor) it stays in its worker, because a look costs more than a process that sleeps; where
    workers are shared it holds none between two looks.
    """

    def __init__(self, *, bandit: Bandit, timeout: float, **kwargs: Any) -> None:
        kwargs.setdefault("poke_interval", bandit.retrain.poke_interval_s)
        if executors() == {"LocalExecutor"}:
            kwargs |= {"mode": "poke", "execution_timeout": timedelta(seconds=timeout) + timedelta(minutes=10)}
        else:
            kwargs |= {"mode": "reschedule"}
        super().__init__(bandit=bandit, timeout=timeout, **kwargs)

    def poke(self, context: Context) -> PokeReturnValue:
        with self.counting_failures(context) as memory:
            found = self.look(context, memory.waited_s)
        if not found and memory.waited_s > self.timeout:
            raise AirflowSensorTimeout(f"waited {self.timeout:.0f} s in vain")
        return found

    def look(self, context: Context, waited_s: float) -> PokeReturnValue:
        """One look, `waited_s` seconds after the first one of the task."""
        raise NotImplementedError
