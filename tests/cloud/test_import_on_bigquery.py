"""`banditloop import` where the log is in BigQuery."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from rl_core.backends import open_backend
from rl_core.backends.gcp.store.tables import ensure_tables
from rl_core.config import Bandit, Settings, Validation
from rl_core.google_cloud.clients import GoogleClients
from rl_core.importing import importer
from stand_ins.cloud import Cloud


def test_a_file_becomes_interactions_and_a_second_run_adds_none(
    cloud_movielens: Bandit, settings: Settings, tmp_path: Path
) -> None:
    bandit = cloud_movielens.model_copy(update={"validation": Validation(other_policies=("imported",))})
    dim, actions = bandit.problem.observation_dim, bandit.problem.actions
    table = {
        "action": list(actions),
        "propensity": [1 / len(actions)] * len(actions),
        "reward": [None, *[3.5] * (len(actions) - 1)],
        "observation": [[0.25] * dim] * len(actions),
    }
    parquet.write_table(pa.table(table), tmp_path / "log.parquet")
    with Cloud(tmp_path / "cloud") as cloud:
        here = settings.model_copy(update={"google_endpoint": cloud.environment("rest")["BANDIT_GOOGLE_ENDPOINT"]})
        clients = GoogleClients(bandit, here)
        ensure_tables(clients)
        clients.close()
        for _ in range(2):
            assert importer.run(bandit, here, tmp_path / "log.parquet") == 0
        store = open_backend(bandit, here).store()
        rows = store.interactions((0, store.head()), ["action_id", "reward", "closed_by"]).to_pylist()
        assert [row["action_id"] for row in rows] == list(actions)
        assert [row["reward"] for row in rows] == [bandit.problem.reward_default, *[3.5] * (len(actions) - 1)]
        assert [row["closed_by"] for row in rows] == ["timeout", *["reward"] * (len(actions) - 1)]
