"""House rules of every DAG. A message says which DAG, what is wrong, and how to mend it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from tests.dags.conftest import Parsed


START = datetime(2026, 1, 1, tzinfo=UTC)


def violations(dag: DAG, bandits: set[str]) -> list[str]:
    from bandit_ops.house import TAGS

    found = []
    stem = Path(dag.fileloc).stem
    owner = dag.dag_id.removesuffix(f"_{stem}")
    if owner not in bandits or not dag.dag_id.endswith(f"_{stem}"):
        found.append(f"dag_id is not <bandit>_{stem}; name it after its YAML and its file {stem}.py")
    if "## When this fails" not in (dag.doc_md or ""):
        found.append('doc_md has no "## When this fails"; pass doc_md=__doc__ and say there what to do')
    if unknown := set(dag.tags) - TAGS - bandits:
        found.append(f"tags {sorted(unknown)} are not in bandit_ops.house.TAGS; use those, or add there")
    if "banditloop" not in dag.tags:
        found.append("the tag banditloop is missing; pass **house_rules(...)")
    if dag.start_date is None:
        found.append('no start_date; "@continuous" runs once and never again without one: pass **house_rules(...)')
    if dag.catchup:
        found.append("catchup is on; windows are counted, never dated: set catchup=False")
    if dag.max_active_runs != 1:
        found.append(f"max_active_runs is {dag.max_active_runs}; a bandit learns one step at a time: set it to 1")
    if dag.schedule is not None and not dag.max_consecutive_failed_dag_runs:
        found.append("recurs but is never paused; one failure would repeat for ever: pass **house_rules(...)")
    if dag.dagrun_timeout is not None:
        found.append("dagrun_timeout skips teardowns and leaves jobs behind; give the tasks timeouts instead")
    for task in dag.tasks:
        found += [f"task {task.task_id}: {problem}" for problem in task_violations(task)]
    return [f"{dag.dag_id}: {problem}" for problem in found]


def task_violations(task: object) -> list[str]:
    from airflow.sdk import BaseOperator, BaseSensorOperator

    assert isinstance(task, BaseOperator)
    found = []
    if not task.retries and task.task_id != "simulate":  # a second try would send the same users again
        found.append("no retries; a worker may die any time: retries=2")
    if task.retries and task.retry_delay > timedelta(minutes=1):
        found.append(f"retry_delay is {task.retry_delay}; people wait for it: one minute at most")
    if task.execution_timeout is None:
        found.append("no execution_timeout; a hanging task holds its slot for ever: set one")
    if task.is_teardown and task.on_failure_fail_dagrun:
        found.append("on_failure_fail_dagrun makes a run whose work failed a success; leave it off")
    if isinstance(task, BaseSensorOperator) and (task.retries or 0) < 1000:
        found.append(f"retries={task.retries}; a sensor loses looks and must survive it: derive it from PatientSensor")
    if isinstance(task, BaseSensorOperator) and task.timeout > 86_400:
        found.append("waits longer than a day; give it a timeout")
    return found


def test_the_shipped_dags_keep_every_rule(shipped: Parsed) -> None:
    assert [problem for dag in shipped.dags.values() for problem in violations(dag, {"movielens"})] == []


def test_a_dag_that_keeps_none_is_told_each_of_them(airflow_home: Path) -> None:
    from airflow.sdk import DAG, BaseOperator, BaseSensorOperator

    with DAG("wild", tags={"misc"}, catchup=True, max_active_runs=3, dagrun_timeout=timedelta(hours=1)) as dag:
        BaseOperator(task_id="careless", retries=0)
        BaseSensorOperator(task_id="greedy", retries=1, retry_delay=timedelta(hours=1))
        BaseOperator(task_id="masking", retries=1).as_teardown(on_failure_fail_dagrun=True)
    told = "\n".join(violations(dag, {"movielens"}))
    for word in (
        "wild: dag_id",
        "When this fails",
        "tags ['misc']",
        "tag banditloop",
        "start_date",
        "catchup",
        "max_active_runs",
        "dagrun_timeout",
        "task careless: no retries",
        "task careless: no execution_timeout",
        "task greedy: retry_delay",
        "task greedy: retries=1",
        "task greedy: waits longer",
        "task masking: on_failure_fail_dagrun",
    ):
        assert word in told, f"nobody says {word!r} in\n{told}"


def test_a_recurring_dag_that_would_repeat_its_failure_for_ever_is_told(airflow_home: Path) -> None:
    from airflow.sdk import DAG

    told = violations(DAG("movielens_wild", schedule="@continuous", start_date=START, max_active_runs=1), {"movielens"})
    assert any("recurs but is never paused" in problem for problem in told)


def test_when_this_fails_names_only_tasks_that_exist(shipped: Parsed) -> None:
    for dag in shipped.dags.values():
        advice = (dag.doc_md or "").partition("## When this fails")[2]
        named = set(re.findall(r"^- `([^`]+)`", advice, re.MULTILINE))
        assert named, f"{dag.dag_id}: the advice names no task"
        assert named <= set(dag.task_ids), f"{dag.dag_id}: the advice names {sorted(named - set(dag.task_ids))}"


def test_pages_speak_of_google_only_where_the_bandit_is_there(shipped: Parsed) -> None:
    of_movielens = {name: dag for name, dag in shipped.dags.items() if name.startswith("movielens_")}
    assert of_movielens
    for name, dag in of_movielens.items():
        told = f"{dag.description} {dag.doc_md}"
        assert not re.search("google|bigquery|vertex", told, re.IGNORECASE), name
