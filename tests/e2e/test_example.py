"""`make example`: a news front page, from an old system's CSV to the third retrain; server and logger are real."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from local_stack.example import NEW, OLD_VISITS, VISITS, WITHDRAWN, Example
from local_stack.processes import living_with
from rl_core.backends import open_backend
from rl_core.config import Settings
from rl_core.serving.parts import SALT_BYTES
from stand_ins.free_port import free_port

pytestmark = pytest.mark.process


class DrawnAlike(Example):
    """With one salt and one id for each visit, so that the server draws the same in every run.

    With this salt no retrain is refused; by chance one of forty is, whose interval of 95 % lies below the champion.
    """

    SALT = b"1" * SALT_BYTES

    def _import(self) -> None:
        salt = self.settings.state_dir(self.bandit) / "endpoint" / "salt"
        salt.parent.mkdir(parents=True)
        salt.write_bytes(self.SALT)
        super()._import()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> tuple[Example, dict[str, Any]]:
    home = tmp_path_factory.mktemp("example")
    played = DrawnAlike(Settings(home=home, server_port=free_port()), Console(file=io.StringIO()))
    return played, played.run()


def test_every_policy_serves_better_than_the_page_before(example: tuple[Example, dict[str, Any]]) -> None:
    rounds = example[1]["rounds"]
    assert [one["policy"] for one in rounds] == [f"news-v1-000{n}" for n in (1, 2, 3, 4)]
    assert all(one["percent_of_gap"] > 25 for one in rounds), "0 is an article by chance, as it was"
    assert rounds[1]["percent_of_gap"] > 60


def test_the_new_article_is_found_and_the_withdrawn_one_is_not_shown(example: tuple[Example, dict[str, Any]]) -> None:
    played, report = example
    store = open_backend(played.bandit, played.settings).store()
    half_way = OLD_VISITS + 2 * VISITS
    sql = f"SELECT action_id, seq > {half_way} AS after, count(*) AS n FROM interactions GROUP BY 1, 2"  # noqa: S608
    shown = {(row["action_id"], row["after"]): row["n"] for row in store.query(sql).to_pylist()}
    assert (NEW, False) not in shown
    assert (WITHDRAWN, True) not in shown
    assert shown[WITHDRAWN, False] > 100
    assert shown[NEW, True] > 100
    assert report["rounds"][3]["percent_of_gap"] > report["rounds"][2]["percent_of_gap"], "its readers are found"


def test_every_visit_is_in_the_log_once_and_late_clicks_are_set_apart(example: tuple[Example, dict[str, Any]]) -> None:
    log = example[1]["log"]
    assert log["interactions"] == OLD_VISITS + 4 * VISITS
    assert log["late_clicks"] > 0


def test_leaves_no_process_behind(example: tuple[Example, dict[str, Any]]) -> None:
    assert not list(living_with("BANDIT_HOME", str(example[0].settings.home)))


def test_its_yaml_is_a_bandit_without_an_environment(repo: Path, example: tuple[Example, dict[str, Any]]) -> None:
    assert example[0].bandit.environment is None
    assert (repo / "docs" / "examples" / "news.yaml").exists()
