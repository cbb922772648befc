"""Fixtures for every test: a state folder of its own, the shipped bandit, and no settings from outside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import hypothesis
import pytest

from rl_core.config import Bandit, Settings

pytest_plugins = [f"tests.harness.{module}" for module in ("kinds", "groups", "patience", "slowest")]

REPO = Path(__file__).resolve().parent.parent

# A machine that pauses for a moment is no finding.
hypothesis.settings.register_profile(
    "ours", deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("ours")

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def synthetic_ratings_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a synthetic u.data: tests have data without a network.

    Of the first hundred movies alone: an environment of them is the same, and is read in a tenth of the time.
    """
    from rl_core.movielens.synthetic import write_synthetic

    path = tmp_path_factory.mktemp("ratings") / "u.data"
    write_synthetic(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if int(line.split("\t")[1]) <= 100))
    return path.parent


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, synthetic_ratings_dir: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("BANDIT_", "AIP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BANDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BANDIT_MOVIELENS_DIR", str(synthetic_ratings_dir))


@pytest.fixture
def repo() -> Path:
    return REPO


@pytest.fixture
def settings() -> Settings:
    return Settings.from_environment()


@pytest.fixture
def movielens() -> Bandit:
    """The shipped bandit."""
    return Bandit.from_yaml(REPO / "dags" / "bandits" / "movielens.yaml")


@pytest.fixture
def cloud_movielens(movielens: Bandit) -> Bandit:
    """The shipped bandit, on Google Cloud."""
    written = movielens.model_dump(mode="json") | {
        "backend": "gcp",
        "runner": "vertex",
        "google": {
            "project": "test-project",
            "region": "europe-west1",
            "image": f"python-banditloop@sha256:{'0' * 64}",
        },
    }
    return Bandit.from_json(json.dumps(written))
