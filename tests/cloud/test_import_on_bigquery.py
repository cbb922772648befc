"""`banditloop import` where the log is in BigQuery, and of a table there."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rl_core.__main__ import run
from rl_core.backends import open_backend
from rl_core.backends.gcp.store.tables import ensure_tables
from rl_core.config import Bandit, Settings, Validation
from rl_core.errors import ConfigError, StoreError
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


def test_somebodys_table_becomes_a_bandit_and_is_imported_by_the_printed_command(
    cloud_movielens: Bandit,
    settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Listing the table is all that is asked of it: no query runs, so one role on the table is enough."""
    from google.cloud import bigquery

    rows: dict[str, list[Any]] = {
        "seen_at": [datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(minutes=7 * n % 5000) for n in range(60)],
        "offer": [("tent", "boots", "stove")[n % 3] for n in range(60)],
        "p": [1 / 3] * 60,
        "clicked": [n % 2 for n in range(60)],
        "interests": [["sport"] if n % 4 else ["sport", "news"] for n in range(60)],
        "age": [None if n == 7 else 20 + n % 30 for n in range(60)],
    }
    with Cloud(tmp_path / "cloud") as cloud:
        for name, value in cloud.environment("rest").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("BANDIT_HOME", str(tmp_path / "home"))
        here = Settings.from_environment()
        clients = GoogleClients(cloud_movielens, here)
        project = clients.names.project
        client, place = clients.bigquery, f"{project}.shop.visits"
        client.create_dataset(f"{project}.shop")
        kinds = ("TIMESTAMP", "STRING", "FLOAT", "INTEGER", "STRING", "INTEGER")
        fields = [
            bigquery.SchemaField(name, kind, mode="REPEATED" if name == "interests" else "NULLABLE")
            for name, kind in zip(rows, kinds, strict=True)
        ]
        client.create_table(bigquery.Table(place, schema=fields))
        said = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        sent = [{**row, "seen_at": row["seen_at"].isoformat()} for row in said]
        assert client.insert_rows_json(place, sent) == []
        clients.close()

        assert run(["init", "shop", "--from", f"bq://{place}", "--out", str(tmp_path)]) == 0
        bandit = Bandit.from_yaml(tmp_path / "shop.yaml")
        assert (bandit.backend, bandit.google and bandit.google.project) == ("gcp", project)
        kinds_found = {name: feature.kind for name, feature in bandit.problem.features.items()}
        assert kinds_found == {"seen_at": "time", "interests": "set", "age": "number"}
        command = re.findall(r"^  banditloop (import .*)$", capsys.readouterr().out, re.MULTILINE)[0]
        with pytest.raises(StoreError, match="shop_v1"):  # provisioning makes the log's tables
            run(shlex.split(command))
        capsys.readouterr()
        clients = GoogleClients(bandit, here)
        ensure_tables(clients)
        clients.close()
        asked = len(cloud.bigquery.jobs)
        assert run([*shlex.split(command), "--dry-run"]) == 0
        assert len(cloud.bigquery.jobs) == asked, "no job is run to read it"
        for _ in range(2):
            assert run(shlex.split(command)) == 0
        assert f"bq://{place}, parquet" in capsys.readouterr().out
        store = open_backend(bandit, here).store()
        found = store.interactions((0, store.head()), ["features"])["features"].to_pylist()
        assert len(found) == 60, "the second run adds none"
        times = [json.loads(one)["seen_at"] for one in found]
        assert times == sorted(times), "in the order of their times"


def test_what_is_no_table_is_said(cloud_movielens: Bandit, settings: Settings, tmp_path: Path) -> None:
    with Cloud(tmp_path / "cloud") as cloud:
        here = settings.model_copy(update={"google_endpoint": cloud.environment("rest")["BANDIT_GOOGLE_ENDPOINT"]})
        bandit = cloud_movielens.model_copy(update={"validation": Validation(other_policies=("imported",))})
        project = bandit.google.project if bandit.google else ""
        with pytest.raises(StoreError, match=r"\.shop\.visits: there is no such table"):
            importer.run(bandit, here, f"bq://{project}.shop.visits")
        with pytest.raises(ConfigError, match=r"a table is bq://project\.dataset\.table"):
            importer.run(bandit, here, "bq://shop.visits")


def test_a_bandit_on_this_machine_reads_no_tables(movielens: Bandit, settings: Settings) -> None:
    bandit = movielens.model_copy(update={"validation": Validation(other_policies=("imported",))})
    with pytest.raises(ConfigError, match=r"backend=local reads no tables.*export it as Parquet"):
        importer.run(bandit, settings, "bq://my-project.shop.visits")
