"""The bundle where only Airflow and the Google provider are installed, in Composer's version and in ours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_core.config import Bandit
from scripts import composer_bundle
from tests.harness.patience import patient

PROGRAM = Path(__file__).with_name("import_bundle.py")
PROVIDERS = ("22.4.0", "22.8.0")
TRAINING = {"take_lease", "train.submit", "train.wait", "train.cancel_if_active", "announce_champion", "release_lease"}
LIMIT_S = 30.0  # Airflow's dagbag_import_timeout, for one file

pytestmark = [
    pytest.mark.long,
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the shipped bandit and one on Google Cloud."""
    folder = tmp_path_factory.mktemp("composer")
    shipped = composer_bundle.REPO / "dags" / "bandits" / "movielens.yaml"
    (folder / "bandits").mkdir()
    (folder / "bandits" / "movielens.yaml").write_bytes(shipped.read_bytes())
    cloud = yaml.safe_load(shipped.read_text()) | {
        "name": "cloudy",
        "prefix": "cloudy",
        "backend": "gcp",
        "runner": "vertex",
        "google": {
            "project": "test-project",
            "image": f"python-banditloop@sha256:{'0' * 64}",
            "gcp_conn_id": "prod",
            "impersonation_chain": ["runner@test-project.iam.gserviceaccount.com"],
        },
    }
    (folder / "bandits" / "cloudy.yaml").write_text(yaml.safe_dump(cloud))
    assert Bandit.from_yaml(folder / "bandits" / "cloudy.yaml").google is not None
    composer_bundle.write(folder / "bundle", composer_bundle.contents(bandits=folder / "bandits"))
    return folder / "bundle"


@pytest.fixture(scope="module", params=PROVIDERS)
def imported(request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `import_bundle.py` saw; parsed once before, as a bundle on Composer is by the time that people look."""
    python = composer_bundle.REPO / f".venv-composer-{request.param}" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"needs {python.parents[1].name}; `make test-composer` makes it")
    given = {
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(bundle / "plugins"),
        "PYTHONPATH": str(bundle / "plugins"),
        "PATH": os.environ["PATH"],
    }
    command = [str(python), str(PROGRAM), str(bundle)]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=patient(240))
    assert done.returncode == 0, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert seen["provider"] == request.param
    return seen


def test_every_dag_file_imports(imported: dict[str, Any]) -> None:
    assert imported["parsing"]["import_errors"] == {}


def test_all_files_together_take_less_than_airflow_allows_for_one(imported: dict[str, Any]) -> None:
    assert imported["parsing"]["parse_s"] < LIMIT_S


def test_parsing_brings_nothing_heavy(imported: dict[str, Any]) -> None:
    assert imported["parsing"]["heavy"] == []


@pytest.mark.parametrize("bandit", ["movielens", "cloudy"])
def test_both_bandits_have_their_dags(imported: dict[str, Any], bandit: str) -> None:
    dags = imported["parsing"]["dags"]
    assert {f"{bandit}_{noun}" for noun in ("startup", "retrain", "rollback")} <= dags.keys()
    assert set(dags[f"{bandit}_startup"]) >= TRAINING
    assert set(dags[f"{bandit}_retrain"]) >= TRAINING | {"gate"}


def test_only_the_bandit_in_bigquery_is_joined_by_airflow(imported: dict[str, Any]) -> None:
    assert [dag for dag in imported["parsing"]["dags"] if dag.endswith("_join")] == ["cloudy_join"]


def test_dags_survive_serialization(imported: dict[str, Any]) -> None:
    assert imported["parsing"]["serialized"] == imported["parsing"]["dags"]


def test_the_plugin_loads_and_airflow_runs_no_other_file_of_the_folder(imported: dict[str, Any]) -> None:
    assert imported["plugins"] == {"plugins": ["banditloop"], "errors": {}, "scanned": ["bandit_plugin"]}


def test_every_module_of_the_bundle_imports(imported: dict[str, Any]) -> None:
    assert imported["not_importable"] == {}, "import it inside the function that needs it"


def test_the_provider_knows_all_that_we_ask_of_it(imported: dict[str, Any]) -> None:
    assert imported["unknown_to_the_provider"] == []
