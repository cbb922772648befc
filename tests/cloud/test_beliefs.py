"""The smoke test of a real project, run against the stand-ins: both must answer alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from stand_ins.beliefs import BELIEFS
from stand_ins.cloud import Cloud

IMAGE = f"python-banditloop@sha256:{'0' * 64}"


def smoke(repo: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BANDIT_", "GOOGLE_"))}
    return subprocess.run(
        [sys.executable, "-m", "stand_ins.smoke", *arguments],
        cwd=repo,
        env=kept | {"PYTHONPATH": str(repo)} | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_every_belief_holds_of_the_stand_ins_and_nothing_is_left(tmp_path: Path, repo: Path) -> None:
    with Cloud(tmp_path / "cloud") as cloud:
        done = smoke(repo, "--project", "test-project", "--image", IMAGE, "--json", **cloud.environment())
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [f"{one['belief']}: {one['note']}" for one in said if not one["holds"]] == []
    assert len(said) == len(BELIEFS), done.stderr
    assert done.returncode == 0, done.stderr


def test_without_a_project_it_skips_and_says_how_to_name_one(repo: Path) -> None:
    done = smoke(repo)
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "skipped")
    assert "PROJECT=" in done.stdout


def test_without_credentials_it_skips_with_the_reason(repo: Path, tmp_path: Path) -> None:
    nowhere = {"HOME": str(tmp_path), "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(tmp_path)}
    done = smoke(repo, "--project", "some-project", **nowhere)
    assert done.returncode == 0, done.stderr
    assert "skipped: no Google credentials" in done.stdout
