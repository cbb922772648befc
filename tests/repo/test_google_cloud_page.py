"""docs/google-cloud.md and docs/monitoring/: as far as they can be checked without an account, they are."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_core.config import Bandit
from rl_core.google_cloud.names import names_of
from rl_core.monitoring.vital_signs import ALARMS, VitalSigns

FRACTION = "float"
KINDS = {one.name: str(one.type) for one in fields(VitalSigns) if "str" not in str(one.type)}
"""The figures that are numbers."""
EXAMPLE = "docs/examples/movielens_cloud.yaml"


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[2] / "docs" / "google-cloud.md").read_text()


@pytest.fixture(scope="module")
def blocks(page: str) -> list[str]:
    found = [re.sub(r"^  ", "", b, flags=re.M) for b in re.findall(r"^  ```bash\n(.*?)^  ```", page, re.S | re.M)]
    return found + re.findall(r"^```bash\n(.*?)^```", page, re.S | re.M)


@pytest.fixture
def cloud(repo: Path) -> Bandit:
    return Bandit.from_yaml(repo / EXAMPLE)


def test_the_generated_parts_are_what_the_code_says(page: str) -> None:
    from scripts.google_cloud_page import generated

    assert generated(page) == page, "run `python -m scripts.google_cloud_page` and commit the page"


def test_every_command_is_shell(blocks: list[str]) -> None:
    assert len(blocks) > 10
    for block in blocks:
        told = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert told.returncode == 0, f"{block}\n{told.stderr}"


def test_every_make_target_and_script_is_there(blocks: list[str], repo: Path) -> None:
    text = "\n".join(blocks)
    targets = set(re.findall(r"^([a-z-]+):", (repo / "Makefile").read_text(), re.M))
    asked = {word for line in re.findall(r"^make (.+)$", text, re.M) for word in line.split() if "=" not in word}
    assert asked >= {"composer-bundle", "functions-bundle", "smoke-gcp"}
    assert asked <= targets
    for script in set(re.findall(r"^(scripts/\S+)", text, re.M)) | {"cloudbuild.yaml", EXAMPLE}:
        assert (repo / script).exists(), script


def test_the_substitutions_of_the_build_are_known(blocks: list[str], repo: Path) -> None:
    given = set(re.findall(r"(_[A-Z]+)=", "\n".join(block for block in blocks if "builds submit" in block)))
    assert given
    assert given <= set(yaml.safe_load((repo / "cloudbuild.yaml").read_text())["substitutions"])


class TestTheExample:
    def test_is_a_bandit_whose_names_are_those_of_the_page(self, cloud: Bandit, page: str) -> None:
        assert (cloud.backend, cloud.runner, cloud.name) == ("gcp", "vertex", "movielens_cloud")
        assert f"BANDIT={cloud.name} " in page
        assert f"ARTEFACT={cloud.id} " in page
        assert names_of(cloud).google.image is None, "its digest is another one for everybody"

    def test_is_what_the_edit_of_step_4_makes_of_it(self, blocks: list[str], repo: Path, tmp_path: Path) -> None:
        (tmp_path / "dags" / "bandits").mkdir(parents=True)
        shutil.copytree(repo / "docs" / "examples", tmp_path / "docs" / "examples")
        (block,) = (block for block in blocks if block.startswith("cp docs/examples"))
        setup = "set -eu; PROJECT=other-project REGION=us-central1 BANDIT=movielens_cloud\n"
        subprocess.run(["bash", "-c", setup + block], cwd=tmp_path, check=True)
        edited = names_of(Bandit.from_yaml(tmp_path / "dags" / "bandits" / "movielens_cloud.yaml"))
        assert (edited.project, edited.region) == ("other-project", "us-central1")
        assert edited.google.provisioner == "banditloop-provisioner@other-project.iam.gserviceaccount.com"
        assert edited.google.impersonation_chain == ("banditloop-airflow@other-project.iam.gserviceaccount.com",)


def airflow_commands(blocks: list[str]) -> list[list[str]]:
    """What `gcloud composer environments run` hands to Airflow."""
    found = []
    for block in blocks:
        filled = (
            block.replace("\\\n", " ")
            .replace("$ARTEFACT", "movielens-cloud-v1")
            .replace("${BANDIT}", "movielens_cloud")
        )
        for line in filled.splitlines():
            if line.startswith("gcloud composer environments run"):
                words = shlex.split(line)
                cut = words.index("--")
                at = next(i for i, word in enumerate(words) if word in ("dags", "tasks"))
                found.append([*words[at:cut], *words[cut + 1 :]])
    return found


def test_airflow_understands_what_it_is_asked_and_has_the_dags_and_params(
    blocks: list[str], repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = airflow_commands(blocks)
    assert len(commands) >= 7
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    folder = shutil.copytree(repo / "dags", tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repo / EXAMPLE, folder / "bandits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from airflow.cli.cli_parser import get_parser
        from airflow.dag_processing.dagbag import DagBag

        bag = DagBag(folder, safe_mode=True, bundle_path=folder, bundle_name="test")
        asked: list[Any] = [get_parser().parse_args(command) for command in commands]
    assert bag.import_errors == {}
    for args in asked:
        assert args.dag_id in bag.dags
        given = json.loads(getattr(args, "conf", None) or "{}")
        assert given.keys() <= set(bag.dags[args.dag_id].params), args.dag_id


class TestMonitoring:
    @pytest.fixture
    def metrics(self, repo: Path) -> list[dict[str, Any]]:
        return list(yaml.safe_load_all((repo / "docs" / "monitoring" / "metrics.yaml").read_text()))

    @pytest.mark.parametrize("written", [str, json.dumps], ids=["as it is", "as a string within JSON"])
    def test_every_metric_finds_its_value_in_a_line_that_is_really_written(
        self, metrics: list[dict[str, Any]], written: Callable[[str], str]
    ) -> None:
        numbers = {name: n + 0.5 if FRACTION in kind else n for n, (name, kind) in enumerate(KINDS.items(), start=11)}
        words: dict[str, Any] = {"bandit": "movielens-v1", "champion": "v1", "last_attempt": "rejected"}
        line = written(VitalSigns(**numbers | words).line("INFO"))
        wanted = {name.removesuffix("_s"): str(number) for name, number in numbers.items()}
        found = {}
        for metric in metrics:
            if "valueExtractor" in metric:
                assert metric["filter"] == 'textPayload:"banditloop_vital_signs"'
                assert self.extracted(metric["labelExtractors"]["bandit"], line) == "movielens-v1"
                found[metric["name"].removeprefix("banditloop_")] = self.extracted(metric["valueExtractor"], line)
        assert found == {name: wanted[name] for name in found}
        assert len(found) == 15

    def test_the_events_that_are_counted_are_those_that_are_written(self, metrics: list[dict[str, Any]]) -> None:
        source = (Path(__file__).parents[2] / "plugins" / "bandit_ops" / "watching.py").read_text()
        for metric in metrics:
            event, *alarm = re.findall(r'"(\w+)"', metric["filter"])
            assert event == "banditloop_vital_signs" or f'"{event}"' in source
            assert set(alarm) <= set(ALARMS), f"{metric['name']}: no line says {alarm}"
            assert alarm or "valueExtractor" in metric or event != "banditloop_vital_signs"

    def test_every_alert_is_about_a_metric_that_is_made(self, repo: Path, metrics: list[dict[str, Any]]) -> None:
        names = {metric["name"] for metric in metrics}
        alerts = (repo / "docs" / "monitoring" / "alerts.yaml").read_text()
        assert set(re.findall(r"user/(\w+)", alerts)) <= names
        assert len(list(yaml.safe_load_all(alerts))) == 9

    @staticmethod
    def extracted(extractor: str, line: str) -> str:
        parts = re.fullmatch(r'REGEXP_EXTRACT\(textPayload, "(.*)"\)', extractor)
        assert parts is not None
        found = re.search(parts[1], line)
        assert found is not None, f"{extractor} finds nothing in {line}"
        return found[1]
