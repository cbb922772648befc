"""The TensorBoard log of local runs, read back by TensorBoard itself."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rl_core.monitoring import experiment_log

pytestmark = pytest.mark.tf  # TensorBoard's reader imports it; the writer does not


def read(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run))
    found.Reload()
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "experiments" / "movielens-v1-retrain-0123456789ab-g0-a0"


def begin(run: Path) -> None:
    experiment_log.begin(
        run, "movielens-retrain-v1", {"agent_alpha": 0.2, "full_retrain": False, "windows": "[[0, 200]]"}
    )


def test_what_was_measured_is_read_at_the_place_in_the_log(run: Path) -> None:
    begin(run)
    experiment_log.measured(run, {"challenger_dr": 3.5, "difference": math.nan}, step=1200)
    experiment_log.end(run, succeeded=True)
    found = read(run)
    assert found.Tags()["scalars"] == ["challenger_dr"], "TensorBoard has no picture of what is not a number"
    assert [(point.step, point.value) for point in found.Scalars("challenger_dr")] == [(1200, 3.5)]


def test_parameters_and_the_end_stand_in_the_tab_of_hyperparameters(run: Path) -> None:
    from tensorboard.plugins.hparams import api_pb2, metadata

    begin(run)
    experiment_log.end(run, succeeded=False)
    content = read(run).PluginTagToContent("hparams")
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["pipeline"].string_value == "movielens-retrain-v1"
    assert start.hparams["agent_alpha"].number_value == 0.2
    assert start.hparams["full_retrain"].HasField("bool_value")
    assert start.hparams["windows"].string_value == "[[0, 200]]"
    ended = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert ended.status == api_pb2.STATUS_FAILURE


def test_a_step_that_is_run_again_adds_no_second_point(run: Path) -> None:
    begin(run)
    for _ in range(2):
        experiment_log.measured(run, {"challenger_dr": 3.5}, step=1200)
    assert len(read(run).Scalars("challenger_dr")) == 1


def test_a_run_that_is_executed_elsewhere_leaves_nothing_here(run: Path) -> None:
    experiment_log.measured(run, {"challenger_dr": 3.5}, step=1200)
    assert not run.parent.exists()


def test_writing_brings_no_tensorflow(tmp_path: Path, repo: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from rl_core.monitoring import experiment_log\n"
        f"run = Path({str(tmp_path / 'run')!r})\n"
        "experiment_log.begin(run, 'p', {'a': 1}); experiment_log.measured(run, {'m': 1.0}, 1)\n"
        "experiment_log.end(run, succeeded=True)\n"
        "print('tensorflow' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(repo)}
    )
    assert answer.stdout.strip() == "False"
