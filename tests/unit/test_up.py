"""What `make up` says: which YAMLs it passes over, and where everything is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from local_stack.up import table, valid_bandits
from rl_core import config
from rl_core.config import Settings
from rl_core.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "dags" / "bandits" / "movielens.yaml"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for dags/bandits."""
    monkeypatch.setattr(config, "BANDITS", tmp_path)
    return tmp_path


def test_a_bad_yaml_is_named_in_one_line_and_harms_no_other(folder: Path, settings: Settings) -> None:
    (folder / "movielens.yaml").write_text(SHIPPED.read_text())
    (folder / "bad.yaml").write_text("name: bad\nprefix: bad\nprobelm: {}\n")
    (folder / "twin.yaml").write_text(SHIPPED.read_text().replace("name: movielens", "name: twin", 1))
    said = io.StringIO()
    assert list(valid_bandits(settings, Console(file=said))) == [folder / "movielens.yaml"]
    bad, twin = said.getvalue().splitlines()
    assert bad.startswith(f"passed over {folder / 'bad.yaml'}: ")
    assert twin.startswith(f"passed over {folder / 'twin.yaml'}: prefix and pipe_version give 'movielens-v1'")


def test_without_one_valid_yaml_there_is_nothing_to_start(folder: Path, settings: Settings) -> None:
    (folder / "bad.yaml").write_text("[]")
    with pytest.raises(ConfigError, match="no YAML in dags/bandits is valid"):
        valid_bandits(settings, Console(file=io.StringIO()))


def test_the_table_is_aligned() -> None:
    rows = [["news", "http://127.0.0.1:8471/docs", "news_*", "var/logs/news-v1/{serve,log}.log"]]
    heading, row = table(rows)
    assert heading.index("DAGs") == row.index("news_*")
    assert heading.index("logs") == row.index("var/")
