"""A run that stops because of what the log holds leaves the rows behind, where its error says."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bandit_ops.runners.base import JobState, Parameters
from bandit_ops.runners.local import LocalRunner
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.movielens.synthetic import write_synthetic
from rl_core.stages import generator

pytestmark = pytest.mark.process


@pytest.fixture
def spoilt(movielens: Bandit, settings: Settings, tmp_path: Path) -> Settings:
    """With a log in which 4 of 100 interactions have an impossible propensity."""
    (tmp_path / "ratings").mkdir()
    write_synthetic(tmp_path / "ratings" / "u.data")
    settings = settings.model_copy(update={"movielens_dir": tmp_path / "ratings"})
    generator.run(movielens, settings, 96, seed=1)
    store = open_backend(movielens, settings).store()
    names = {"decisions": 1.5, "rewards": None}
    for table, propensity in names.items():
        rows = store.query(f'SELECT * FROM {table} ORDER BY "offset" LIMIT 4').to_pylist()  # noqa: S608
        for n, row in enumerate(rows):
            row |= {"producer": "importer", "event_id": f"imported-{n}"}
            row |= {} if propensity is None else {"propensity": propensity}
        schema = store.query(f"SELECT * FROM {table} LIMIT 0").schema  # noqa: S608
        store.append(table, pa.Table.from_pylist(rows, schema))  # type: ignore[arg-type]
    store.joiner(movielens).run(None)
    assert store.head() == 100
    return settings


def test_a_run_with_too_many_bad_rows_trains_nothing_and_leaves_them_to_be_looked_at(
    movielens: Bandit, spoilt: Settings
) -> None:
    runner = LocalRunner(movielens, spoilt)
    given: Parameters = {"bandit": movielens.job_json(), "windows": "[[0, 100]]", "champion": "", "full_retrain": True}
    agent: Parameters = {**movielens.agent.numbers}
    runner.submit("spoilt", "retrain", given | agent | {"job_id": "spoilt", "trigger": "manual"})
    while not (status := runner.status("spoilt")) or not status.state.terminal:
        time.sleep(0.1)
    assert status.state is JobState.FAILED
    assert "ingester: DataError: 4 of 100 interactions (4.00%) of (0, 100] break a rule" in status.message
    named = re.search(r"they lie in (\S+?)\.? ", status.message)
    assert named is not None, status.message
    assert pq.read_table(Path(named[1]))["reason"].to_pylist() == ["propensity"] * 4
    assert open_backend(movielens, spoilt).registry().attempts() == []
