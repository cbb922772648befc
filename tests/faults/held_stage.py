"""Stands in for every stage of the fault tests: nothing, or what `$BANDIT_HOME/behaviour.json` says: hold, fail."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rl_core.config import Bandit, Settings
from rl_core.errors import StoreError


def run(bandit: Bandit, settings: Settings, *arguments: Any) -> Any:
    stage = __name__.rpartition(".")[2]
    while behaviour(settings).get(stage) == "hold":
        time.sleep(0.1)
    if behaviour(settings).get(stage) == "fail":
        raise StoreError("seq 5 is missing (gap); run the joiner first")
    if stage == "deployer":
        return SimpleNamespace(version=f"{bandit.id}-0001", promoted=True, reason="no champion yet")
    if stage == "exporter":
        return None
    [one for one in arguments if isinstance(one, Path)][-1].mkdir(parents=True)
    return SimpleNamespace(promote=True, rows=2, metrics={}) if stage == "evaluator" else 7


def behaviour(settings: Settings) -> dict[str, str]:
    found: dict[str, str] = json.loads(Path(settings.home, "behaviour.json").read_text())
    return found
