"""Importing a file whose columns are named features: each format gives what a request would have said."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings, Startup, Validation
from rl_core.errors import ConfigError, DataError
from rl_core.importing import importer
from rl_core.problem_config import Problem
from rl_core.stages import ingester

FEATURES = {
    "age": {"kind": "number", "missing": 40},
    "country": {"kind": "category", "values": ["de", "fr"]},
    "interests": {"kind": "set", "values": ["news", "sport"]},
    "member": "boolean",
    "seen_at": "time",
    "embedding": {"kind": "vector", "dim": 2},
}
SAID = {
    "age": 31.0,
    "country": "de",
    "interests": ["news", "sport"],
    "member": True,
    "seen_at": "2026-01-31T12:00:00+00:00",
    "embedding": [0.5, -1.0],
}
HEAD = "age,country,interests,member,seen_at,embedding,action,propensity,reward"
GOOD = "31,de,news|sport,yes,2026-01-31T12:00:00+00:00,0.5|-1,a,0.5,1"
MISSING = ",de,,no,2026-01-31T12:00:00+00:00,0|0,b,0.5,"


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    given = {"features": FEATURES, "actions": ["a", "b"], "reward_min": 0, "reward_max": 1, "reward_default": 0}
    return movielens.model_copy(
        update={
            "problem": Problem.model_validate(given),
            "environment": None,
            "startup": Startup(source="log"),
            "validation": Validation(other_policies=("imported",), max_quarantined_share=0.4),
        }
    )


def _imported(bandit: Bandit, settings: Settings, path: Path, *words: str) -> list[dict[str, object]]:
    importer.run(bandit, settings, path, words)
    store = open_backend(bandit, settings).store()
    rows = store.interactions((0, store.head())).to_pylist()
    assert all(row["observation"] == [] for row in rows)
    return [orjson.loads(row["features"]) for row in rows]


def test_of_text_is_read_as_each_kind_is_sent(bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("\n".join([HEAD, GOOD, MISSING]) + "\n")
    first, second = _imported(bandit, settings, tmp_path / "log.csv")
    assert first == SAID
    assert "age" not in second
    assert "interests" not in second
    assert ingester.run(bandit, settings, [(0, 2)], tmp_path / "data") == 2


def test_of_columns_with_types_and_other_names(bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
    table = {f"{name}_": [value] for name, value in SAID.items()}
    table |= {"action": ["a"], "propensity": [0.5], "reward": [1.0]}
    parquet.write_table(pa.table(table), tmp_path / "log.parquet")
    named = f"observation={','.join(f'{name}_' for name in SAID)}"
    assert _imported(bandit, settings, tmp_path / "log.parquet", named) == [SAID]


def test_sets_aside_what_is_not_of_its_kind(
    bandit: Bandit, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = GOOD.replace("31,", "old,", 1)
    (tmp_path / "log.csv").write_text("\n".join([HEAD, GOOD, GOOD, bad]) + "\n")
    assert len(_imported(bandit, settings, tmp_path / "log.csv")) == 2
    assert "features.age: send a number that fits float32" in capsys.readouterr().out


def test_says_which_columns_are_missing(bandit: Bandit, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("age,action,propensity,reward\n31,a,0.5,1\n")
    with pytest.raises((ConfigError, DataError), match="country"):
        importer.run(bandit, settings, tmp_path / "log.csv")
    with pytest.raises(ConfigError, match="names 1 columns, the bandit has 6: age, country"):
        importer.run(bandit, settings, tmp_path / "log.csv", ["observation=age"])
