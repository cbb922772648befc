"""Airflow's SQLite, which it has where no PostgreSQL runs, locked for longer than SQLite's usual patience."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from local_stack.airflow_stack import AirflowStack
from reliability.quick_airflow import QUICK
from rl_core.config import Settings
from stand_ins.free_port import free_port
from tests.faults.conftest import PATIENT
from tests.harness.patience import patient

pytestmark = [pytest.mark.airflow, pytest.mark.long]
LOCKED_S = 9.0
DAG = """
from airflow.sdk import DAG, task

with DAG("locked", schedule=None):
    @task
    def nothing():
        pass
    nothing()
"""


@pytest.fixture
def airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AirflowStack]:
    """One that finds no wheel."""
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "locked.py").write_text(DAG)
    settings = Settings(home=tmp_path / "home", airflow_port=free_port())
    stack = AirflowStack(settings, dags=tmp_path / "dags", options=QUICK | PATIENT)
    monkeypatch.setattr("local_stack.postgres.find_spec", lambda _: None)
    said: list[str] = []
    try:
        stack.start(progress=said.append)
        assert any(line.startswith("Airflow's database is SQLite") for line in said)
        stack.wait_for_dags(["locked"])
        stack.api.unpause("locked")
        yield stack
    finally:
        stack.stop(grace_s=3)
        stack.api.close()


def test_is_waited_for_by_the_scheduler_and_asked_again_by_us(airflow: AirflowStack) -> None:
    said = airflow.home / "logs" / "components" / "scheduler.log"
    before = said.stat().st_size
    database = sqlite3.connect(airflow.home / "airflow.db", timeout=patient(60))
    with ThreadPoolExecutor(1) as pool, contextlib.closing(database):
        database.execute("BEGIN IMMEDIATE")
        asked = pool.submit(airflow.api.trigger, "locked")
        time.sleep(LOCKED_S)
        assert not asked.done()
        database.rollback()
        run_id = asked.result(60)
    assert airflow.api.wait_for_run("locked", run_id) == "success"
    runs = [run["dag_run_id"] for run in airflow.api.runs("locked")]
    assert runs == [run_id], "what was answered with a 500 has changed nothing"
    assert b"database is locked" not in said.read_bytes()[before:]
