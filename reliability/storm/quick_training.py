"""A training in a second: the pipeline's stages in this process, without evaluator and exporter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl_core.backends.contracts.store import Window
from rl_core.config import Bandit, Settings
from rl_core.policy.verdict import Verdict
from rl_core.stages import deployer, generator, ingester, trainer


def train_first(bandit: Bandit, settings: Settings, folder: Path) -> str:
    """Log a simulation and train on it; returns the version that serves then. `folder` takes what lies in between."""
    windows = generator.run(bandit, settings, bandit.startup.rounds, bandit.startup.seed)
    return train(bandit, settings, windows, None, folder)


def train(bandit: Bandit, settings: Settings, windows: Sequence[Window], champion: str | None, folder: Path) -> str:
    """Add the windows to what the champion knows, and deploy that."""
    rows = ingester.run(bandit, settings, windows, folder / "dataset", champion)
    trainer.run(bandit, settings, folder / "dataset", champion, False, bandit.agent, folder / "policy")
    verdict = Verdict(promote=True, reason="not evaluated", champion=champion, rows=int(rows), metrics={})
    verdict.save(folder / "verdict")
    trigger = "sensor" if champion else "startup"
    deployed = deployer.run(bandit, settings, folder / "policy", folder / "verdict", champion, trigger, folder.name)
    return deployed.version
