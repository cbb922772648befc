"""The README's commands do what it says. `make demo` runs in test_demo.py; `make test` runs this."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Site


def blocks(repo: Path) -> str:
    return "".join(re.findall(r"```bash\n(.*?)```", (repo / "README.md").read_text(), re.DOTALL))


def test_make_alone_lists_every_target(repo: Path) -> None:
    listed = subprocess.run(["make"], cwd=repo, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^make (\S+)", blocks(repo), re.MULTILINE):
        assert f"make {target}" in listed


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_get_a_decision_and_take_a_reward(repo: Path, site: Site) -> None:
    version = site.promote(1)
    site.serve()
    commands = re.findall(r"^curl .*?(?=^curl |^make |\Z)", blocks(repo), re.MULTILINE | re.DOTALL)
    answers = []
    for command in commands:
        moved = command.replace("localhost:8471", f"127.0.0.1:{site.port}")
        answers.append(json.loads(subprocess.run(["bash", "-c", moved], capture_output=True, check=True).stdout))
    prediction = answers[0]["predictions"][0]
    assert prediction["event_id"] == "order-17"
    assert prediction["policy_version"] == version
    assert 0 < prediction["propensity"] <= 1
    assert [row["event_id"] for row in site.on_the_bus("decisions")] == ["order-17"]
    assert [row["reward"] for row in site.on_the_bus("rewards")] == [4.5]
