"""A bandit's YAML: whatever is wrong with it is refused where it is written, naming file, place and rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_core.__main__ import run
from rl_core.bandit_yaml import settings_of
from rl_core.config import Bandit
from rl_core.errors import ConfigError
from scripts.bandit_yaml_page import page

SHOP: dict[str, Any] = {
    "name": "shop",
    "prefix": "shop",
    "pipe_version": "v1",
    "problem": {
        "observation_dim": 2,
        "observation_version": "o1",
        "actions": ["a", "b"],
        "action_set_version": "a1",
        "reward_min": 0,
        "reward_max": 1,
        "reward_default": 0,
    },
    "startup": {"source": "log"},
}


def changed(**sections: Any) -> str:
    """Write the shop's YAML with changes: a section's keys are added, anything else is replaced."""
    content = dict(SHOP)
    for key, value in sections.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return yaml.safe_dump(content)


@pytest.fixture
def refusal(tmp_path: Path) -> Any:
    def refuse(text: str) -> str:
        path = tmp_path / "shop.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as error:
            Bandit.from_yaml(path)
        said = str(error.value)
        assert said.startswith(f"{path}: ")
        assert "\n" not in said
        return said.removeprefix(f"{path}: ")

    return refuse


@pytest.mark.parametrize("action", ["", " ", " a", "a ", "a\n", "\u00a0a"])
def test_an_action_id_is_not_empty_and_has_no_blanks_at_its_ends(refusal: Any, action: str) -> None:
    said = refusal(changed(problem={"actions": [action, "b"]}))
    assert f"actions lists {action!r}; an action id is not empty and has no blanks at its ends" in said


class TestAKeyWrittenTwice:
    def test_is_refused_with_both_lines(self, refusal: Any) -> None:
        text = changed()
        last = len(text.splitlines()) + 1
        first = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith("startup:"))
        said = refusal(text + "startup: {source: simulation}\n")
        assert said == f"line {last}: 'startup' is written in line {first} already; keep one"

    @pytest.mark.parametrize("key", ["rounds", '"rounds"'])
    def test_at_any_depth_however_it_is_quoted(self, refusal: Any, key: str) -> None:
        text = re.sub(r"startup:.*\n.*", f"startup:\n  source: log\n  rounds: 3\n  {key}: 4", changed())
        assert "'rounds' is written in line" in refusal(text)

    def test_in_one_line(self, refusal: Any) -> None:
        said = refusal(re.sub(r"startup:\n.*", "startup: {source: log, source: log}", changed()))
        assert "'source' is written in line" in said

    def test_may_be_what_a_merge_brings(self, tmp_path: Path) -> None:
        path = tmp_path / "shop.yaml"
        path.write_text(changed() + "simulate: {<<: {decisions: 5}, decisions: 6}\n")
        assert Bandit.from_yaml(path).simulate.decisions == 6


@pytest.mark.parametrize("text", ["a: 2026-13-45", "[" * 2000, "{[a]: b}", "!!int x", "name: [unclosed"])
def test_what_is_not_yaml_is_said_in_one_line(refusal: Any, text: str) -> None:
    assert refusal(text).startswith("not YAML: ")


@pytest.mark.parametrize("field", ["retrain.schedule", "simulate.schedule", "google.join_schedule"])
def test_a_schedule_that_airflow_can_not_follow_is_refused_in_every_field(refusal: Any, field: str) -> None:
    section, key = field.split(".")
    rest = {"project": "my-project"} if section == "google" else {}
    said = refusal(changed(**{section: {**rest, key: "every tuesday"}}))
    assert said.startswith(f"{field}: write five fields of cron")
    assert "(got 'every tuesday')" in said


@pytest.mark.parametrize(
    "field", ["retrain.gate_timeout_s", "retrain.run_timeout_s", "join.reward_wait_s", "retention.raw_log_days"]
)
def test_a_time_that_no_clock_holds_is_refused(refusal: Any, field: str) -> None:
    section, key = field.split(".")
    assert refusal(changed(**{section: {key: 1e300}})).startswith(f"{field}: Input should be less than or equal to")


@pytest.mark.parametrize(
    ("sections", "hint"),
    [
        ({"retrain": {"shedule": "@daily"}}, "retrain.shedule: there is no such key; did you mean retrain.schedule?"),
        ({"serveing": {}}, "serveing: there is no such key; did you mean serving?"),
        ({"epsilon": 0.1}, "epsilon: there is no such key; did you mean serving.epsilon?"),
        ({"google": {"project": "my-project", "vertex": {"memori": "8G"}}}, "did you mean google.vertex.memory?"),
        ({"join": {"qqq": 1}}, "join.qqq: there is no such key; the keys here are reward_wait_s, close_early"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_valid_one(refusal: Any, sections: dict[str, Any], hint: str) -> None:
    assert hint in refusal(changed(**sections))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"kind": "python"}, "environment.factory: Field required"),
        ({"kind": "python", "factory": "shop.world"}, "environment.factory: write the module, a colon"),
        ({"kind": "python", "factory": "a:b", "argments": {}}, "did you mean environment.arguments?"),
        ({"kind": "python", "factory": "a:b", "movies": "first"}, "environment.movies: there is no such key"),
        ({"kind": "pyhton"}, "does not match any of the expected tags: 'movielens', 'python'"),
        ({"noise_sd": -1}, "environment.noise_sd: Input should be greater than or equal to 0"),
    ],
)
def test_an_environment_is_one_of_its_kinds(refusal: Any, environment: dict[str, Any], said: str) -> None:
    assert said in refusal(changed(environment=environment))


def test_an_environment_without_kind_is_movielens_as_it_always_was(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(changed(environment={"noise_sd": 1.0, "seed": 7}))
    read = Bandit.from_yaml(tmp_path / "shop.yaml")
    assert str(read.environment) == "kind='movielens' movies='first' noise_sd=1.0 drift_from_round=None seed=7"
    assert Bandit.from_json(read.job_json()).environment == read.environment


def test_a_factory_is_neither_imported_nor_looked_for_when_a_yaml_is_read(tmp_path: Path) -> None:
    python = {"kind": "python", "factory": "nowhere.at_all:World", "arguments": {"users": [1, {"two": None}]}}
    (tmp_path / "shop.yaml").write_text(changed(environment=python, startup={"source": "simulation"}))
    read = Bandit.from_yaml(tmp_path / "shop.yaml")
    assert Bandit.from_json(read.job_json()).environment == read.environment


@pytest.mark.parametrize("section", ["google", "vertex"])
@pytest.mark.parametrize("key", ["", "-team", "_team", "1team"])
def test_a_label_key_begins_with_a_letter(refusal: Any, section: str, key: str) -> None:
    labels = {"labels": {key: "x"}}
    google = {"project": "my-project", **(labels if section == "google" else {"vertex": labels})}
    assert f"label key {key!r}: Google wants a lower-case letter first" in refusal(changed(google=google))


@pytest.mark.parametrize("labels", [{"Team": "x"}, {"team": "X"}, {"t" * 64: "x"}, {f"t{n}": "x" for n in range(61)}])
def test_labels_that_google_refuses_are_refused(refusal: Any, labels: dict[str, str]) -> None:
    assert refusal(changed(google={"project": "my-project", "labels": labels})).startswith("google.labels")


def test_contradictions_are_all_said(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(changed(startup={"source": "simulation"}, runner="vertex", retention={"raw_log_days": 1}))
    bandit, wrong = Bandit.read(path)
    assert bandit is None
    assert len(wrong) == 4
    for part, line in zip(
        ("an environment", "a section google", "raw_log_days=1 must", "set backend"), wrong, strict=True
    ):
        assert part in line


class TestCheck:
    def check(self, *arguments: object) -> int:
        return run(["check", *(str(one) for one in arguments)])

    def test_says_everything_that_is_wrong_in_a_line_each(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "shop.yaml"
        path.write_text(
            changed(
                name="market",
                prefix="Shop",
                problem={"actions": ["a", " b"]},
                retrain={"shedule": "@daily", "schedule": "every tuesday"},
                epsilon=0.1,
            )
        )
        assert self.check(path) == 1
        said = capsys.readouterr().out.splitlines()
        assert all(line.startswith(f"{path}: ") for line in said)
        told = [line.removeprefix(f"{path}: ").split(" ")[0] for line in said]
        assert sorted(told) == sorted(
            ["epsilon:", "name", "prefix:", "problem:", "retrain.schedule:", "retrain.shedule:"]
        )

    def test_says_ok_of_what_is_right_and_names_twins(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("shop", "twin"):
            (tmp_path / f"{name}.yaml").write_text(changed(name=name))
        assert self.check(tmp_path / "shop.yaml", tmp_path / "twin.yaml") == 1
        ok, twin = capsys.readouterr().out.splitlines()
        assert ok == f"{tmp_path / 'shop.yaml'}: ok"
        assert twin.startswith(f"{tmp_path / 'twin.yaml'}: prefix and pipe_version give 'shop-v1', which shop.yaml has")

    def test_takes_names_and_without_any_all_that_are_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.check("movielens") == 0
        one = capsys.readouterr().out
        assert self.check() == 0
        assert one in capsys.readouterr().out
        with pytest.raises(ConfigError, match="no bandit called 'nope'"):
            self.check("nope")

    def test_a_file_that_is_not_there_is_a_fault_like_any(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.check(tmp_path / "gone.yaml") == 1
        assert "gone.yaml: can't be read" in capsys.readouterr().out


def test_the_reference_is_what_the_model_says(repo: Path) -> None:
    assert (repo / "docs" / "reference" / "bandit-yaml.md").read_text() == page(), (
        "run `python -m scripts.bandit_yaml_page` and commit the page"
    )


def test_the_reference_has_every_key_with_a_word_about_it() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| `")]
    keys = [path[-1] for path, _ in settings_of(Bandit) if not {"features", "action_features"} & {*path[:-1]}]
    assert sorted(row[0].strip("| `") for row in rows) == sorted(keys)
    assert [row[0] for row in rows if len(row[-1].strip(" |")) < 3] == []
