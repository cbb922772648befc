"""The shipped bandit at its shipped settings, while other processes keep every core and the disk busy."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability.busy_machine import RETRAINS, Play, busy, healthy

pytestmark = [pytest.mark.airflow, pytest.mark.long, pytest.mark.timeout(3600)]


def test_every_run_of_startup_three_retrains_and_one_by_hand_succeeds(tmp_path: Path) -> None:
    with busy(10, tmp_path):
        result = Play(tmp_path / "home").run()
    assert healthy(result), result
    assert result["jobs"] == {"SUCCEEDED": 1 + RETRAINS + 1}
    assert result["runs"]["startup manual success"] == 1
    assert result["runs"]["retrain manual success"] == 1
    assert result["runs"]["retrain scheduled success"] >= RETRAINS
