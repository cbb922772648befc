"""README and messages say `banditloop …`: a checkout has that command, wherever it is called from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process


def test_a_checkout_has_the_command(repo: Path, tmp_path: Path) -> None:
    """As `make` links it, in a folder that stands for the checkout's environment."""
    checkout = tmp_path / "a checkout"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    for name in ("rl_core", "plugins", "dags", "scripts"):
        (checkout / name).symlink_to(repo / name)
    (checkout / ".venv" / "bin" / "banditloop").symlink_to("../../scripts/banditloop")
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [checkout / ".venv" / "bin" / "banditloop", "check", "movielens"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("movielens.yaml: ok\n")


def test_make_links_it(repo: Path) -> None:
    assert "ln -sf ../../scripts/banditloop .venv/bin/banditloop" in (repo / "Makefile").read_text()
    assert os.access(repo / "scripts" / "banditloop", os.X_OK)
