"""A training in a second: the pipeline's stages in this process, without evaluation and what TensorFlow exports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl_core.backends import open_backend
from rl_core.backends.contracts.store import Window
from rl_core.bandit.blocks import combine
from rl_core.config import Bandit, Settings
from rl_core.dataset.trajectories import Dataset
from rl_core.policy.artefact import write_artefact
from rl_core.policy.lineage import load_blocks, make_blocks
from rl_core.policy.verdict import Verdict
from rl_core.stages import deployer, generator, ingester


def train_first(bandit: Bandit, settings: Settings, folder: Path) -> str:
    """Log a simulation and train on it; returns the version that serves then. `folder` takes what lies in between."""
    windows = generator.run(bandit, settings, bandit.startup.rounds, bandit.startup.seed)
    return train(bandit, settings, windows, None, folder)


def train(bandit: Bandit, settings: Settings, windows: Sequence[Window], champion: str | None, folder: Path) -> str:
    """Add the windows to what the champion knows, and deploy that."""
    rows = ingester.run(bandit, settings, windows, folder / "dataset")
    registry = open_backend(bandit, settings).registry()
    inherited = registry.lineage(champion).windows if champion else ()
    trained = make_blocks(Dataset.open(folder / "dataset"), bandit.agent.half_life)
    blocks = [*load_blocks(registry, inherited), *trained]
    statistics = combine(blocks, head=max(block.seq_high for block in blocks))
    write_artefact(
        folder / "policy", bandit.problem, bandit.agent, statistics, trained, parent=champion, inherited=inherited
    )
    verdict = Verdict(promote=True, reason="not evaluated", champion=champion, rows=int(rows), metrics={})
    verdict.save(folder / "verdict")
    trigger = "sensor" if champion else "startup"
    deployed = deployer.run(bandit, settings, folder / "policy", folder / "verdict", champion, trigger, folder.name)
    return deployed.version
