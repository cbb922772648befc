"""Fixtures for every test: a state folder of its own, the shipped bandit, and no settings from outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rl_core.config import Bandit, Settings

REPO = Path(__file__).resolve().parent.parent

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("BANDIT_", "AIP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BANDIT_HOME", str(tmp_path / "home"))
    yield


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
