"""The soak, for twenty seconds: policies are swapped under steady traffic, and no request notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reliability.soak.memory import trend


@pytest.mark.long
@pytest.mark.process
@pytest.mark.timeout(200)
def test_no_request_fails_while_policies_are_swapped(repo: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = [
        sys.executable,
        "-m",
        "reliability.soak",
        "--quick",
        "--minutes",
        "0.34",
        "--rate",
        "100",
        "--every",
        "0.5",
    ]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment = kept | {"PYTHONPATH": f"{repo}:{repo / 'plugins'}"}
    done = subprocess.run(
        [*command, "--out", str(out)], cwd=repo, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["requests"] >= 2000
    assert report["swaps"] >= 3
    assert (report["failed"], report["failed_within_1s_of_swap"], report["unexpected_exits"]) == (0, 0, 0)
    assert report["in_store"] == report["acknowledged"] > 0
    assert set(report["rss"]) == {"server", "logger"}


class TestTheTrendOfMemory:
    def test_that_stays_is_none(self) -> None:
        assert trend([(float(t), 100.0) for t in range(0, 900, 5)], 180)["growth_mib"] == 0

    def test_that_grows_by_the_hour_is_told_in_mib_an_hour(self) -> None:
        found = trend([(float(t), 100 + t / 36) for t in range(0, 900, 5)], 180)
        assert found["slope_mib_per_h"] == 100
        assert found["growth_mib"] > 10

    def test_while_it_warms_up_does_not_count(self) -> None:
        samples = [(float(t), 100.0 if t > 180 else 50.0) for t in range(0, 900, 5)]
        assert trend(samples, 185)["growth_mib"] == 0
