"""Airflow's SQLite, locked for longer than SQLite's usual patience, as slow machines do lock it."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import World

pytestmark = [pytest.mark.airflow, pytest.mark.long]
LOCKED_S = 9.0


def known_runs(world: World) -> set[str]:
    return {run["dag_run_id"] for run in world.stack.api.runs(world.dag_id)}


def test_is_waited_for_by_the_scheduler_and_asked_again_by_us(world: World) -> None:
    said = world.stack.home / "logs" / "components" / "scheduler.log"
    before, runs = said.stat().st_size, known_runs(world)
    database = sqlite3.connect(world.stack.home / "airflow.db", timeout=60)
    with ThreadPoolExecutor(1) as pool, contextlib.closing(database):
        database.execute("BEGIN IMMEDIATE")
        asked = pool.submit(world.trigger)
        time.sleep(LOCKED_S)
        assert not asked.done()
        database.rollback()
        run_id = asked.result(60)
    assert world.end_of(run_id) == "success"
    assert known_runs(world) - runs == {run_id}, "what was answered with a 500 has changed nothing"
    assert b"database is locked" not in said.read_bytes()[before:]
