"""Reports runs that fail or take too long: one line of JSON, for whatever reads the logs.

Cloud Monitoring makes alerts of these lines (docs/monitoring/); other readers find `severity` and `event` in them.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rl_core.config import Bandit

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from bandit_ops.task import BanditTask
    from rl_core.backends.contracts.backend import Backend
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.store import EventStore
    from rl_core.monitoring.delivery import Delivery

FAILURE, LATE = "banditloop_failure", "banditloop_late"
WATCHED = frozenset({"startup", "retrain"})
"""Kinds of DAGs with a deadline: those that wait for a pipeline."""

_CELERY_RUNS_CALLBACKS = (3, 18)
log = logging.getLogger(__name__)


def log_failure(context: Context) -> None:
    """Log who failed, why, where to look, and what the DAG's page says to do: an `on_failure_callback`."""
    ti: Any = context["ti"]
    task: Any = context.get("task")
    error = context.get("exception")
    reason = "" if error is None else " ".join(str(error).split())
    line = {
        "severity": "ERROR",
        "event": FAILURE,
        "bandit": getattr(getattr(task, "bandit", None), "name", ti.dag_id.rpartition("_")[0]),
        "dag": ti.dag_id,
        "run": ti.run_id,
        "task": ti.task_id,
        "try": ti.try_number,
        "job": getattr(task, "job_id", None),
        "link": _link(task),
        "error": reason[:1000],
        "advice": advice(getattr(getattr(task, "dag", None), "doc_md", None), ti.task_id, reason),
    }
    log.error("%s", json.dumps(line))


def advice(doc_md: str | None, task_id: str, reason: str) -> str | None:
    """Find the line of "When this fails" for the task: the one whose quoted words are in the reason, else its first."""
    section = (doc_md or "").partition("## When this fails")[2]
    entries = [" ".join(entry.split()) for entry in re.split(r"^- ", section, flags=re.MULTILINE)[1:]]
    mine = [entry for entry in entries if entry.startswith(f"`{task_id}`")]
    quoted = [entry for entry in mine if any(words in reason for words in re.findall(r"\*([^*]+)\*", entry))]
    return next(iter(quoted or mine), None)


def deadlines(bandit: Bandit, noun: str) -> dict[str, Any]:
    """Return the DAG's `deadline`, for bandits with a section `google`, where the executor can run its callback.

    An executor that can't would take the scheduler down with it. `warn_if_late` needs no executor, and always speaks.
    """
    if bandit.google is None or noun not in WATCHED or not _executor_runs_callbacks():
        return {}
    return {"deadline": _deadline(bandit, bandit.google.alert_after_s)}


def _deadline(bandit: Bandit, after_s: float) -> DeadlineAlert:
    """SyncCallback runs in a worker; an AsyncCallback would need this module in the triggerer, where Composer has none.

    https://docs.cloud.google.com/composer/docs/composer-3/dag-cloud-storage-access
    """
    from airflow.sdk.definitions.callback import SyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

    callback = SyncCallback(deadline_missed, kwargs={"bandit": bandit.name, "after_s": after_s})
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=timedelta(seconds=after_s), callback=callback
    )


def deadline_missed(bandit: str, after_s: float, context: dict[str, Any]) -> None:
    """Log that a run has not ended `after_s` seconds after it was queued; Airflow calls it."""
    run = context["dag_run"]
    _say_late(bandit, run["dag_id"], run.get("dag_run_id") or run.get("run_id"), after_s, None)


def warn_if_late(bandit: Bandit, context: Context, job_id: str | None) -> bool:
    """Log, with each look from then on, that the run is older than `google.alert_after_s`; return whether it is."""
    started: datetime | None = context["dag_run"].start_date
    if bandit.google is None or started is None:
        return False
    age_s = (datetime.now(UTC) - started).total_seconds()
    if age_s < bandit.google.alert_after_s:
        return False
    _say_late(bandit.name, context["ti"].dag_id, context["ti"].run_id, round(age_s), job_id)
    return True


def _say_late(bandit: str, dag: str, run: str | None, after_s: float, job_id: str | None) -> None:
    line = {
        "severity": "WARNING",
        "event": LATE,
        "bandit": bandit,
        "dag": dag,
        "run": run,
        "job": job_id,
        "after_s": after_s,
        "advice": "look at the run's page: a step may hang, or wait for quota; mark the run failed to end its job",
    }
    log.warning("%s", json.dumps(line))


def say_vital_signs(task: BanditTask, registry: PolicyRegistry, store: EventStore) -> None:
    """Log the vital signs of a local bandit; on Google Cloud the join DAG does."""
    from rl_core.backends import backend_class
    from rl_core.config import Settings
    from rl_core.monitoring.delivery import local_delivery

    if not backend_class(task.bandit).JOINED_BY_DAG:
        settings = Settings.from_environment()
        _say(task.bandit, lambda: registry, store, lambda: local_delivery(task.bandit, settings, store))


def say_cloud_vital_signs(task: BanditTask, backend: Backend, watermark: datetime | None, gaps: int) -> None:
    """Log them with every run of the join DAG."""
    from rl_core.monitoring.delivery import bigquery_delivery

    store, now = backend.store(), datetime.now(UTC)
    _say(task.bandit, backend.registry, store, lambda: bigquery_delivery(task.bandit, store, watermark, gaps, now))


def _say(
    bandit: Bandit, registry: Callable[[], PolicyRegistry], store: EventStore, measure: Callable[[], Delivery]
) -> None:
    """Log the vital signs; what can't be measured is logged as a warning and fails nothing."""
    from rl_core.errors import BanditError
    from rl_core.monitoring.vital_signs import log_vital_signs

    try:
        log_vital_signs(bandit, registry(), store, measure(), datetime.now(UTC))
    except BanditError as error:
        log.warning("no vital signs: %s", error)


def _link(task: BaseOperator | None) -> str | None:
    from bandit_ops.links import PipelineRunLink

    if getattr(task, "job_id", None) is None:
        return None
    try:
        return PipelineRunLink().get_link(task, ti_key=None) or None  # type: ignore[arg-type]
    except Exception:  # the link is a courtesy: whatever it can't be made for, the line is said
        return None


def _executor_runs_callbacks() -> bool:
    """LocalExecutor does, and CeleryExecutor since its provider's 3.18; of others nothing is known."""
    from importlib.metadata import PackageNotFoundError, version

    from airflow.sdk.configuration import conf

    names = {name.strip().rpartition(".")[2] for name in conf.get("core", "executor", fallback="").split(",")}
    if names == {"LocalExecutor"}:
        return True
    if names != {"CeleryExecutor"}:
        return False
    try:
        major, minor = version("apache-airflow-providers-celery").split(".")[:2]
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) >= _CELERY_RUNS_CALLBACKS
