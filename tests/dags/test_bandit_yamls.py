"""One YAML, one set of DAGs; a bad one is reported once and harms nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local_stack.__main__ import run as local_stack
from rl_core.config import Bandit, Settings
from rl_core.cron import PRESETS
from rl_core.errors import ConfigError

if TYPE_CHECKING:
    from tests.dags.conftest import Parse

AddBandit = Callable[..., Path]

MOVIELENS = {f"movielens_{noun}" for noun in ("startup", "retrain", "simulate", "rollback", "teardown")}


def test_a_second_yaml_gives_a_second_set_of_dags(dags_folder: Path, add_bandit: AddBandit, parse: Parse) -> None:
    add_bandit("prices", retrain={"schedule": "@hourly", "min_new_interactions": 7}, enable_caching=False)
    parsed = parse(dags_folder)
    assert parsed.import_errors == {}
    assert set(parsed.dags) == MOVIELENS | {name.replace("movielens", "prices") for name in MOVIELENS}
    assert parsed.dags["prices_retrain"].params["min_new_interactions"] == 7
    assert parsed.dags["prices_retrain"].params["enable_caching"] is False
    assert str(parsed.dags["prices_retrain"].schedule) == "@hourly"


def test_a_bandit_without_an_environment_has_no_simulation(
    dags_folder: Path, add_bandit: AddBandit, parse: Parse
) -> None:
    add_bandit("shop", environment=None, startup={"rounds": 100})
    parsed = parse(dags_folder)
    assert parsed.import_errors == {}
    assert {dag_id for dag_id in parsed.dags if dag_id.startswith("shop")} == {
        "shop_startup",
        "shop_retrain",
        "shop_rollback",
        "shop_teardown",
    }
    assert parsed.dags["shop_startup"].params["source"] == "log"


def test_a_simulation_without_an_environment_is_refused(add_bandit: AddBandit) -> None:
    with pytest.raises(ConfigError, match=r"source=simulation needs an environment; add one or"):
        Bandit.from_yaml(add_bandit("shop", environment=None, startup={"source": "simulation"}))


def test_simulation_recurs_where_the_yaml_switches_it_on(
    dags_folder: Path, add_bandit: AddBandit, parse: Parse
) -> None:
    add_bandit("busy", simulate={"enabled": True, "schedule": "*/5 * * * *"})
    assert str(parse(dags_folder).dags["busy_simulate"].schedule) == "*/5 * * * *"


@pytest.mark.usefixtures("airflow_home")
def test_the_presets_are_those_of_airflow() -> None:
    from airflow.utils.dates import cron_presets

    assert set(PRESETS) == {*cron_presets, "@once", "@continuous"}


class TestABadYaml:
    @pytest.fixture
    def bad(self, add_bandit: AddBandit) -> Path:
        return add_bandit("broken", retrain={"min_new_interactions": 0})

    def test_is_one_import_error_that_names_file_setting_value_and_rule(
        self, dags_folder: Path, bad: Path, parse: Parse
    ) -> None:
        errors = parse(dags_folder).import_errors
        assert list(errors) == ["check_bandits.py"]
        last = errors["check_bandits.py"].strip().splitlines()[-1]
        assert f"{bad}: retrain.min_new_interactions: " in last
        assert "greater than or equal to 1" in last
        assert "(got 0)" in last

    def test_harms_no_other_bandit(self, dags_folder: Path, bad: Path, parse: Parse) -> None:
        assert set(parse(dags_folder).dags) == MOVIELENS

    def test_of_any_kind_is_still_one_error(
        self, dags_folder: Path, bad: Path, add_bandit: AddBandit, parse: Parse
    ) -> None:
        add_bandit("weekly", retrain={"schedule": "every tuesday"})
        add_bandit("endless", retrain={"run_timeout_s": 1e300})
        (dags_folder / "bandits" / "dated.yaml").write_text("name: 2026-13-45")
        (dags_folder / "bandits" / "torn.yaml").write_text("name: [unclosed")
        (dags_folder / "bandits" / "list.yaml").write_text("- a\n- b\n")
        (dags_folder / "bandits" / "empty.yaml").write_text("")
        (dags_folder / "bandits" / "binary.yaml").write_bytes(b"\xff\xfe\x00")
        parsed = parse(dags_folder)
        assert list(parsed.import_errors) == ["check_bandits.py"]
        assert set(parsed.dags) == MOVIELENS
        for name in ("broken", "weekly", "endless", "dated", "torn", "list", "empty", "binary"):
            assert f"{name}.yaml: " in parsed.import_errors["check_bandits.py"]


def test_two_bandits_must_not_share_tables(dags_folder: Path, add_bandit: AddBandit, parse: Parse) -> None:
    add_bandit("twin", prefix="movielens")
    parsed = parse(dags_folder)
    assert set(parsed.dags) == MOVIELENS
    assert "movielens.yaml has already" in parsed.import_errors["check_bandits.py"]


class TestABanditIsNamed:
    def test_as_its_yaml_in_dags_bandits_and_as_airflow_knows_it(self, settings: Settings, repo: Path) -> None:
        assert settings.bandit_path("movielens") == repo / "dags" / "bandits" / "movielens.yaml"
        with pytest.raises(ConfigError, match=r"no bandit called 'movies' in .*; there are: movielens"):
            settings.bandit_path("movies")

    @pytest.mark.parametrize("path", ["/elsewhere/shop.yaml", "shop.yaml", "elsewhere/shop", "../shop.yml"])
    def test_and_not_by_a_path_where_airflow_is_started(self, path: str) -> None:
        with pytest.raises(ConfigError, match=r"is a path; .* put the YAML there, and give its name: --bandit shop$"):
            local_stack(["up", "--bandit", path])
