"""Stands in for every stage in `rl_core/stages/` of a test's own root: real pipelines, real kfp.local, no work.

It writes down that it ran in `$BANDIT_HOME/calls`, and behaves as `$BANDIT_HOME/behaviour.json` says of it.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rl_core.config import Bandit, Settings
from rl_core.errors import StoreError


def run(bandit: Bandit, settings: Settings, *arguments: Any) -> Any:
    stage = __name__.rpartition(".")[2]
    with (settings.home / "calls").open("a") as calls:
        calls.write(f"{stage}\n")
    behaviour = settings.home / "behaviour.json"
    match json.loads(behaviour.read_text()).get(stage) if behaviour.exists() else None:
        case "fail":
            raise StoreError("seq 5 is missing (gap); run the joiner first")
        case "fail oddly":
            print("  indented words\nlast words of a library")
            os._exit(3)
        case "hang":
            subprocess.run(["sleep", "300"], check=True)
        case "hang deaf":
            subprocess.run(["sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"], check=True)
        case "slow":
            time.sleep(0.5)
    if stage == "generator":
        return [(0, arguments[0])]
    if stage == "deployer":
        return SimpleNamespace(version=f"{bandit.id}-0001", promoted=True, reason="no champion yet")
    if stage == "exporter":
        return None
    out = [one for one in arguments if isinstance(one, Path)][-1]
    out.mkdir(parents=True)
    (out / "made-by").write_text(str(os.getpid()))
    if stage == "evaluator":
        return SimpleNamespace(promote=True, rows=2, metrics={"challenger_dr": 1.5, "undefined": float("nan")})
    return 7
