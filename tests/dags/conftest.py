"""Parses DAG folders as Airflow's dag-processor does, in a home of this test run; no Airflow runs."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from stand_ins.cloud import Cloud

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Parsed:
    dags: dict[str, DAG]
    import_errors: dict[str, str]


Parse = Callable[[Path], Parsed]


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Airflow, imported with a home of its own. Its import warns about itself, which is not our affair."""
    home = tmp_path_factory.mktemp("airflow")
    given = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
    }
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
            patch.delenv(name)
        for name, value in given.items():
            patch.setenv(name, value)
        import airflow.dag_processing.dagbag
        import airflow.sdk  # noqa: F401

        yield home


@pytest.fixture(scope="session")
def parse(airflow_home: Path) -> Parse:
    def parse_folder(folder: Path) -> Parsed:
        from airflow.dag_processing.dagbag import DagBag

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bag = DagBag(folder, safe_mode=True, bundle_path=folder, bundle_name="test")
        return Parsed(bag.dags, bag.import_errors)

    return parse_folder


@pytest.fixture(scope="session")
def shipped(parse: Parse) -> Parsed:
    """The repository's own `dags/`."""
    return parse(REPOSITORY / "dags")


@pytest.fixture
def dags_folder(tmp_path: Path) -> Path:
    """A copy of `dags/` to add bandits to."""
    shutil.copytree(REPOSITORY / "dags", tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "dags"


@pytest.fixture
def add_bandit(dags_folder: Path) -> Callable[..., Path]:
    """Writes `bandits/<name>.yaml`: the shipped one with changes."""

    def add(name: str, **changes: Any) -> Path:
        content = yaml.safe_load((dags_folder / "bandits" / "movielens.yaml").read_text())
        path = dags_folder / "bandits" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**content, "name": name, "prefix": name, **changes}))
        return path

    return add


@pytest.fixture
def google_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's default connection to Google, as nobody."""
    connection = {"conn_type": "google_cloud_platform", "extra": {"is_anonymous": True, "project": "test-project"}}
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", json.dumps(connection))


@pytest.fixture
def cloud(google_connection: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """An empty project, to which that connection leads."""
    from stand_ins.cloud import Cloud

    with Cloud(tmp_path / "cloud") as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made
