"""One noun per stage, through every layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_core.stages import STAGES


def test_the_stages_are_the_six_of_the_loop() -> None:
    assert STAGES == ("generator", "ingester", "trainer", "evaluator", "deployer", "exporter")


@pytest.mark.parametrize(
    "pattern",
    [
        "rl_core/stages/{}.py",
        "pipeline_defs/components/{}.py",
        "pipeline_defs/compiled/components/{}.yaml",
        "tests/unit/test_{}.py",
    ],
)
def test_every_stage_has_its_file_and_no_file_is_without_a_stage(repo: Path, pattern: str) -> None:
    folder, name = (repo / pattern).parent, Path(pattern).name
    missing = [stage for stage in STAGES if not (folder / name.format(stage)).exists()]
    assert not missing, f"{pattern}: no file for {missing}"
    if "tests" not in pattern:
        present = {path.stem for path in folder.glob(f"*{Path(name).suffix}")} - {"__init__"}
        assert present == set(STAGES), f"{folder} holds files that are no stage: {present - set(STAGES)}"
