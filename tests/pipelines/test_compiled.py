"""The compiled files: current, loadable by others, and free of anything that a run has to install."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from bandit_ops.runners import spec
from bandit_ops.runners.base import Pipeline
from rl_core.config import Bandit
from rl_core.environment_config import MovieLens, PythonWorld

INPUTS = {
    "generator": {"bandit", "rounds", "seed"},
    "ingester": {"bandit", "windows", "champion"},
    "trainer": {"bandit", "dataset", "champion", "full_retrain", "agent_alpha", "tikhonov_weight", "half_life"},
    "evaluator": {"bandit", "dataset", "policy", "champion", "full_retrain"},
    "deployer": {"bandit", "policy", "verdict", "champion", "trigger", "job_id"},
    "exporter": {"bandit", "version", "promoted"},
}
PIPELINES = {"startup": list(INPUTS), "retrain": list(INPUTS)[1:]}


@pytest.fixture
def compiled(repo: Path) -> Path:
    return repo / "pipeline_defs" / "compiled"


def pipeline(compiled: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((compiled / f"{name}.yaml").read_text())
    return loaded


class TestTheCheck:
    def test_is_content_with_what_is_committed(self, capsys: pytest.CaptureFixture[str]) -> None:
        from pipeline_defs.compile import main

        assert main(["--check"]) == 0, capsys.readouterr().out

    def test_shows_what_differs_in_a_stale_a_missing_and_a_foreign_file(self, compiled: Path, tmp_path: Path) -> None:
        from pipeline_defs.compile import stale

        copy = shutil.copytree(compiled, tmp_path / "compiled")
        text = (copy / "retrain.yaml").read_text()
        (copy / "retrain.yaml").write_text(text.replace("agent_alpha: float", "alpha: float"))
        (copy / "components" / "trainer.yaml").unlink()
        (copy / "components" / "scorer.yaml").write_text("name: scorer\n")
        first, *others = stale(copy)
        assert "+# Name: trainer" in others[0]
        assert "-#    alpha: float" in others[1]
        assert first.startswith("components/scorer.yaml is stale")
        assert len(others) == 2

    def test_writes_what_it_then_accepts(self, tmp_path: Path) -> None:
        from pipeline_defs.compile import stale, write

        write(tmp_path)
        assert stale(tmp_path) == []


@pytest.mark.parametrize("stage", INPUTS)
class TestAComponent:
    def test_loads_from_its_file_with_the_declared_inputs(self, compiled: Path, stage: str) -> None:
        from kfp import components

        loaded = components.load_component_from_file(str(compiled / "components" / f"{stage}.yaml"))
        assert loaded.name == stage
        assert set(loaded.component_spec.inputs) == INPUTS[stage]

    def test_installs_nothing_and_calls_its_stage(self, compiled: Path, stage: str) -> None:
        spec = pipeline(compiled, f"components/{stage}")
        command = " ".join(spec["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]["command"])
        assert "pip install" not in command
        assert f"from rl_core.stages import {stage} as stage" in command


@pytest.mark.parametrize("name", PIPELINES)
class TestAPipeline:
    def test_runs_its_steps_in_order(self, compiled: Path, name: str) -> None:
        tasks = pipeline(compiled, name)["root"]["dag"]["tasks"]
        assert set(tasks) == set(PIPELINES[name])
        for i, step in enumerate(PIPELINES[name]):
            upstream = tasks[step].get("dependentTasks", [])
            assert set(upstream) <= set(PIPELINES[name][:i])
            assert PIPELINES[name][i - 1] in upstream or i == 0

    def test_caches_every_step_but_deployer_and_exporter(self, compiled: Path, name: str) -> None:
        tasks = pipeline(compiled, name)["root"]["dag"]["tasks"]
        cached = {step for step, task in tasks.items() if task["cachingOptions"].get("enableCache")}
        assert cached == set(PIPELINES[name]) - {"deployer", "exporter"}

    def test_hands_out_what_the_deployer_decided(self, compiled: Path, name: str) -> None:
        outputs = pipeline(compiled, name)["root"]["outputDefinitions"]["parameters"]
        kinds = {key: output["parameterType"] for key, output in outputs.items()}
        assert kinds == {"version": "STRING", "promoted": "BOOLEAN", "reason": "STRING"}

    def test_carries_placeholders_for_name_and_image(self, compiled: Path, name: str) -> None:
        spec = pipeline(compiled, name)
        images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
        assert images == {"python-banditloop:set-at-submit"}
        assert spec["pipelineInfo"]["name"] == f"banditloop-{name}"


@pytest.mark.parametrize("name", PIPELINES)
def test_what_a_class_of_somebodys_generates_is_never_taken_from_the_cache(movielens: Bandit, name: Pipeline) -> None:
    for environment, cached in ((MovieLens(), True), (PythonWorld(kind="python", factory="a:b"), False)):
        filled = spec.load(spec.ROOT, name)
        before = {step: task["cachingOptions"] for step, task in filled["root"]["dag"]["tasks"].items()}
        spec.generate_anew(filled, movielens.model_copy(update={"environment": environment}))
        after = {step: task["cachingOptions"] for step, task in filled["root"]["dag"]["tasks"].items()}
        assert after == before | ({} if cached or "generator" not in before else {"generator": {}})
