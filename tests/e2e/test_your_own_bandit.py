"""docs/your-own-bandit.md: its commands take a CSV to a policy that answers. Startup is its stages."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from bandit_ops.params import startup_params
from bandit_ops.plans import Circumstances, startup_plan
from local_stack.services import Services
from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.stages import deployer, evaluator, ingester, trainer
from stand_ins.free_port import free_port
from tests.e2e.test_readme import answers, blocks, needs_curl
from tests.harness.patience import patient

PAGE = Path("docs", "your-own-bandit.md")
OFFERS = ("tent", "stove", "boots")
INTERESTS = ("camping", "hiking", "skiing")
ROWS = 3000


def write_visits(path: Path, header: str) -> None:
    """The page's file: who is young clicks on tents, and in one row of twenty nobody knows who clicked, or how old."""
    rng, now = np.random.default_rng(1), datetime(2026, 3, 1, 9, 12, tzinfo=UTC)
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(header.split(","))
        for n in range(ROWS):
            offer, age = int(rng.integers(3)), int(rng.integers(18, 80))
            clicked = int(rng.random() < (0.4 if (offer == 0) == (age < 45) else 0.1))
            told = "" if rng.random() < 0.05 else clicked
            seen = f"{now + timedelta(minutes=n):%Y-%m-%dT%H:%M:%SZ}"
            liked = "|".join(rng.choice(INTERESTS, rng.integers(3), replace=False))
            row = [f"v-{n}", OFFERS[offer], "0.333333", told, seen, rng.choice(["de", "fr", "it"], p=[0.6, 0.3, 0.1])]
            writer.writerow([*row, "" if rng.random() < 0.05 else age, liked, f"c-{rng.integers(60)}", "web"])


def startup(bandit: Bandit, settings: Settings, scratch: Path) -> deployer.Deployment:
    """What shop_startup plans with its form left alone, carried out stage by stage."""
    backend = open_backend(bandit, settings)
    form = {name: param.value for name, param in startup_params(bandit).items()}
    given = startup_plan(Circumstances(bandit, form, backend.registry(), backend.store(), manual=True))["parameters"]
    windows = [(low, high) for low, high in json.loads(str(given["windows"]))]
    data, policy, verdict = (scratch / name for name in ("data", "policy", "verdict"))
    ingester.run(bandit, settings, windows, data, None)
    trainer.run(bandit, settings, data, None, True, bandit.agent, policy)
    evaluator.run(bandit, settings, data, policy, None, True, verdict)
    return deployer.run(bandit, settings, policy, verdict, None, "startup", "job-1")


def commanded(command: str, repo: Path, folder: Path) -> str:
    """What a command of the page prints; its bandits lie in the folder, not in the checkout."""
    command = command.replace("banditloop", f"{sys.executable} -m rl_core")
    command = re.sub(r"(check|--bandit) shop", r"\1 shop.yaml", command) + (" --out ." if " init " in command else "")
    environment = os.environ | {"PYTHONPATH": str(repo)}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_curl
def test_the_page_takes_a_csv_to_a_policy_that_answers(repo: Path, tmp_path: Path, settings: Settings) -> None:
    page = (repo / PAGE).read_text()
    [header] = re.findall(r"^visit,.*$", page, re.MULTILINE)
    write_visits(tmp_path / "visits.csv", header)
    commands = re.findall(r"^banditloop (?!serve)(?:\\\n|.)*", blocks(repo / PAGE), re.MULTILINE)
    said = "".join(commanded(command, repo, tmp_path) for command in commands)
    shown = re.findall(r"^init: .* rows\n(.*?)^init: wrote", page, re.MULTILINE | re.DOTALL)[0].splitlines()
    assert len(shown) > 5
    assert [line for line in shown if line not in said] == [], "the page shows what is printed"
    assert f"{ROWS:,} can be imported, 0 set aside" in said
    assert Bandit.from_yaml(tmp_path / "kiosk.yaml").problem.num_actions == 2

    shop = Bandit.from_yaml(tmp_path / "shop.yaml")
    done = startup(shop, settings, tmp_path / "run")
    assert (done.version, done.promoted) == ("shop-v1-0001", True), done.reason

    served = settings.model_copy(update={"server_port": free_port()})
    services = Services(tmp_path / "shop.yaml", shop, served, {**os.environ, **served.variables()})
    try:
        services.start(patient(30))
        asked, rewarded = answers(repo / PAGE, served.server_port_of(shop))
    finally:
        services.stop()
    [decision] = asked["predictions"]
    assert decision["policy_version"] == done.version
    assert (decision["action_id"] == "tent") == (decision["propensity"] > 0.9), "it has learnt what who is 31 likes"
    assert rewarded == {"accepted": 1}
