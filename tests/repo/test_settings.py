"""Settings: read once, listed once, and wrong ones end the search."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError


def test_env_example_lists_every_setting_and_no_other(repo: Path) -> None:
    lines = (repo / ".env.example").read_text().splitlines()
    listed = [line.split("=")[0] for line in lines if line and not line.startswith("#")]
    assert listed == [f"BANDIT_{field.upper()}" for field in Settings.model_fields]


def test_the_environment_is_read_in_one_file(repo: Path) -> None:
    readers = {
        str(path.relative_to(repo))
        for room in ("rl_core", "pipeline_defs", "plugins", "dags")
        for path in (repo / room).rglob("*.py")
        if "os.environ[" in path.read_text() or "os.environ.get" in path.read_text() or "getenv" in path.read_text()
    }
    passing_it_on_to_children = {"pipeline_defs/run_local.py", "plugins/bandit_ops/runners/launch.py"}
    assert readers - passing_it_on_to_children <= {"rl_core/config.py"}


def test_a_mistyped_setting_is_an_error_that_lists_the_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDIT_SEVER_PORT", "8471")
    with pytest.raises(ConfigError, match=r"BANDIT_SEVER_PORT is not a setting.*BANDIT_SERVER_PORT"):
        Settings.from_environment()


def test_a_wrong_value_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDIT_SERVER_PORT", "eighty")
    with pytest.raises(ConfigError, match=r"BANDIT_SERVER_PORT='eighty': .*integer"):
        Settings.from_environment()


def test_an_empty_setting_means_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDIT_SERVER_PORT", "")
    assert Settings.from_environment().server_port is None


def test_a_relative_path_is_relative_to_where_the_program_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BANDIT_MOVIELENS_DIR", "ratings")
    monkeypatch.setenv("BANDIT_HOME", "state")
    monkeypatch.setenv("BANDIT_JOB_PYTHON", "env/bin/python")
    settings = Settings.from_environment()
    assert (settings.movielens_dir, settings.home) == (tmp_path / "ratings", tmp_path / "state")
    assert settings.job_python == str(tmp_path / "env/bin/python")


def test_an_interpreter_without_a_slash_is_looked_up_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDIT_JOB_PYTHON", "python3.11")
    assert Settings.from_environment().job_python == "python3.11"


def test_infinity_is_no_bound_of_a_reward(movielens: Bandit) -> None:
    written = movielens.model_dump(mode="json")
    written["problem"]["reward_max"] = float("inf")
    with pytest.raises(ValueError, match="finite number"):
        Bandit.model_validate(written)
