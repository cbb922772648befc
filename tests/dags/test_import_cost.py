"""What parsing a DAG file imports, beyond what Airflow's SDK itself brings. Files are parsed every few seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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

PROGRAM = """
import json, runpy, sys, warnings
warnings.simplefilter("ignore")
import airflow.sdk
from airflow.sdk import DAG, Asset, BaseOperator, BaseSensorOperator, Param, TaskGroup
Asset(name="a", uri="x-test://a")
before = set(sys.modules)
runpy.run_path(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.mark.parametrize("name", ["startup", "retrain", "simulate", "rollback", "join", "teardown", "check_bandits"])
def test_a_dag_file_imports_nothing_heavy(repo: Path, airflow_home: Path, name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{repo}{os.pathsep}{repo / 'plugins'}"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(repo / "dags" / f"{name}.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    heavy = [module for module in loaded if module in HEAVY or module.startswith(tuple(f"{h}." for h in HEAVY))]
    assert not heavy, f"dags/{name}.py imports {heavy[:5]}; import them inside the function that needs them"


def test_the_plugin_file_imports_no_web_framework(repo: Path, airflow_home: Path) -> None:
    """Every task loads the plugin; only the API server needs the pages."""
    program = PROGRAM.replace("before =", "import airflow.plugins_manager\nbefore =")
    environment = {**os.environ, "PYTHONPATH": f"{repo}{os.pathsep}{repo / 'plugins'}"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(repo / "plugins" / "bandit_plugin.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert not [module for module in loaded if module.partition(".")[0] in ("fastapi", "tensorflow", "kfp")]
