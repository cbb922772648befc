"""The smoke test of a real project, run against the stand-ins: both must answer alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stand_ins.beliefs import BELIEFS
from stand_ins.cloud import Cloud
from stand_ins.smoke import main
from tests.harness.patience import patient

IMAGE = f"python-banditloop@sha256:{'0' * 64}"


def smoke(repo: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BANDIT_", "GOOGLE_"))}
    return subprocess.run(
        [sys.executable, "-m", "stand_ins.smoke", *arguments],
        cwd=repo,
        env=kept | {"PYTHONPATH": str(repo)} | variables,
        capture_output=True,
        text=True,
        timeout=patient(600),
    )


def test_every_belief_holds_of_the_stand_ins_and_nothing_is_left(tmp_path: Path, repo: Path) -> None:
    with Cloud(tmp_path / "cloud") as cloud:
        done = smoke(repo, "--project", "test-project", "--image", IMAGE, "--json", **cloud.environment())
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [f"{one['belief']}: {one['note']}" for one in said if not one["holds"]] == []
    assert len(said) == len(BELIEFS), done.stderr
    assert done.returncode == 0, done.stderr


def test_without_a_project_it_skips_and_says_how_to_name_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("skipped:")
    assert "PROJECT=" in said


def test_without_credentials_it_skips_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    for name, value in {"HOME": str(tmp_path), "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    assert main(["--project", "some-project"]) == 0
    assert "skipped: no Google credentials" in capsys.readouterr().out
