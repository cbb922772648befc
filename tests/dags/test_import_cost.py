"""What parsing a DAG file imports, beyond what Airflow's SDK itself brings. Files are parsed every few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.imports import brought, loaded_by

HEAVY = (
    "tensorflow",
    "tf_agents",
    "kfp",
    "google.cloud",
    "airflow.providers.google",
    "pandas",
    "pyarrow",
    "deltalake",
    "duckdb",
    "fastapi",
    "uvicorn",
)

FILES = ("startup", "retrain", "simulate", "rollback", "join", "teardown", "check_bandits")
SDK = """
import airflow.sdk
from airflow.sdk import DAG, Asset, BaseOperator, BaseSensorOperator, Param, TaskGroup
Asset(name="a", uri="x-test://a")
"""

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def loaded(airflow_home: Path) -> dict[str, set[str]]:
    """By DAG file, what it brings."""
    repo = Path(__file__).parents[2]
    run = "import runpy; runpy.run_path({!r})"
    return loaded_by({name: run.format(str(repo / "dags" / f"{name}.py")) for name in FILES}, repo, first=SDK)


@pytest.mark.parametrize("name", FILES)
def test_a_dag_file_imports_nothing_heavy(loaded: dict[str, set[str]], name: str) -> None:
    heavy = brought(loaded[name], HEAVY)
    assert not heavy, f"dags/{name}.py imports {heavy[:5]}; import them inside the function that needs them"


def test_the_plugin_file_imports_no_web_framework(repo: Path, airflow_home: Path) -> None:
    """Every task loads the plugin; only the API server needs the pages."""
    run = f"import runpy; runpy.run_path({str(repo / 'plugins' / 'bandit_plugin.py')!r})"
    loaded = loaded_by({"plugin": run}, repo, first=f"{SDK}\nimport airflow.plugins_manager")
    assert not brought(loaded["plugin"], ("fastapi", "tensorflow", "kfp"))
