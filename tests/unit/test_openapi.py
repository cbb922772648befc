"""What the server says of itself is so: schemathesis sends what OpenAPI allows and what it forbids to a real server.

All its checks: no 5xx, every status, type, header and body as documented, what breaks the schema is refused, what keeps
it is taken, other methods are 405 with Allow, and no route that documents a token answers without one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from rl_core.config import Bandit, Settings
from tests.e2e.conftest import Site
from tests.harness.patience import patient

TOKEN = "a-token-of-the-test-0123456789"
CONFIG = """
seed = 4
[generation]
deterministic = true
max-examples = 60
[warnings]
fail-on = true
"""


@pytest.fixture
def site(repo: Path, movielens: Bandit, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """However slow the disk of the machine is, that is no reason for a 503 here."""
    serving = movielens.serving.model_copy(update={"publish_deadline_s": 20.0})
    bandit = movielens.model_copy(update={"serving": serving})
    monkeypatch.setenv("BANDIT_DEFINITION", bandit.model_dump_json())
    with ExitStack() as stack:
        site = Site(repo, bandit, settings, stack)
        site.promote(1)
        yield site


def schemathesis(site: Site, folder: Path, *options: str) -> str:
    """Its report; fails with it unless nothing was found."""
    (folder / "schemathesis.toml").write_text(CONFIG)
    url = f"{site.url()}/openapi.json"
    program = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
    command = [*program, "--config-file=schemathesis.toml", "run", url, "--checks=all", "--no-color", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=patient(500), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("token", "phases", "cases"),
    [
        pytest.param(None, "examples,fuzzing", 100, marks=pytest.mark.long),
        (TOKEN, "examples,coverage,fuzzing", 300),
    ],
)
def test_every_answer_is_as_documented(site: Site, tmp_path: Path, token: str | None, phases: str, cases: int) -> None:
    server = site.serve(**({"BANDIT_SERVER_TOKEN": token} if token else {}))
    shown = {"Authorization": f"Bearer {token}"} if token else {}
    options = [f"--header={name}: {value}" for name, value in shown.items()]
    report = schemathesis(site, tmp_path, f"--phases={phases}", *options)
    state = httpx.get(f"{site.url()}/state", headers=shown, trust_env=False, timeout=patient(30)).json()
    server.terminate()
    log, _ = server.communicate(timeout=patient(20))
    generated = re.search(r"(\d+) generated", report)
    assert generated is not None
    assert int(generated[1]) >= cases
    assert "7 selected / 7 total" in report
    assert state["defects"] == state["unavailable"] == 0
    assert state["decisions"] > 20
    assert "Traceback" not in log


class TestTheDocument:
    def test_asks_for_a_token_where_the_server_does(self, site: Site) -> None:
        site.serve(BANDIT_SERVER_TOKEN=TOKEN)
        shown = {"authorization": f"Bearer {TOKEN}"}
        document = httpx.get(f"{site.url()}/openapi.json", headers=shown, trust_env=False, timeout=patient(30)).json()
        assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        operations = {
            f"{method} {path}": operation
            for path, found in document["paths"].items()
            for method, operation in found.items()
        }
        without = {name for name, operation in operations.items() if "security" not in operation}
        assert without == {"get /health"}
        assert all("401" in operation["responses"] for name, operation in operations.items() if name not in without)

    def test_names_every_refusal(self, site: Site) -> None:
        site.serve()
        document = httpx.get(f"{site.url()}/openapi.json", trust_env=False, timeout=patient(30)).json()
        assert "securitySchemes" not in document["components"]
        assert {"400", "408", "413", "431", "503"} <= document["paths"]["/predict"]["post"]["responses"].keys()

    def test_is_shown_on_a_page_that_loads_nothing_from_elsewhere(self, site: Site) -> None:
        site.serve()
        page = httpx.get(f"{site.url()}/docs", trust_env=False, timeout=patient(30)).text
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert {path.rpartition(".")[2] for path in loaded} == {"css", "js", "png"}
        ask = partial(httpx.get, trust_env=False, timeout=patient(30))
        assert {ask(site.url() + path).status_code for path in loaded} == {200}
        assert "//" not in page
