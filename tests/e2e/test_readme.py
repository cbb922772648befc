"""The README's commands and those of docs/serving.md do what is said. `make demo` runs in test_demo.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Site


def blocks(page: Path) -> str:
    return "".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL))


def answers(page: Path, port: int) -> list[Any]:
    """Of the page's curl commands, asked of the server on a port."""
    found = []
    for command in re.findall(r"^curl .*?(?=^curl |^make |^banditloop |\Z)", blocks(page), re.MULTILINE | re.DOTALL):
        moved = re.sub(r"localhost:\d+", f"127.0.0.1:{port}", command)
        found.append(json.loads(subprocess.run(["bash", "-c", moved], capture_output=True, check=True).stdout))
    return found


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def test_make_alone_lists_every_target(repo: Path) -> None:
    listed = subprocess.run(["make"], cwd=repo, capture_output=True, text=True, check=True).stdout
    for target in re.findall(r"^make (\S+)", blocks(repo / "README.md"), re.MULTILINE):
        assert f"make {target}" in listed


@needs_curl
def test_the_curl_commands_get_a_decision_and_take_a_reward(repo: Path, site: Site) -> None:
    version = site.promote(1)
    site.serve()
    prediction = answers(repo / "README.md", site.port)[0]["predictions"][0]
    assert prediction["event_id"] == "order-17"
    assert prediction["policy_version"] == version
    assert 0 < prediction["propensity"] <= 1
    assert [row["event_id"] for row in site.on_the_bus("decisions")] == ["order-17"]
    assert [row["reward"] for row in site.on_the_bus("rewards")] == [4.5]


@needs_curl
def test_the_page_on_serving_asks_rewards_defers_and_activates(repo: Path, site: Site) -> None:
    site.promote(1)
    site.serve()
    asked, rewarded, deferred, activated = answers(repo / "docs" / "serving.md", site.port)
    assert "deferred" not in asked["predictions"][0]
    assert deferred["predictions"][0]["deferred"] is True
    assert rewarded == activated == {"accepted": 1}
    logged = site.on_the_bus("decisions")
    assert [(row["event_id"], row.get("subject")) for row in logged] == [("visit-1", "customer-7"), ("mail-1", None)]
    earned = site.on_the_bus("rewards")
    assert [(row["event_id"], row.get("activation")) for row in earned] == [("visit-1", None), ("mail-1", True)]
