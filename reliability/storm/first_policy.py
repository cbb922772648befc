"""A first champion in a second: startup's stages in this process, without what TensorFlow exports."""

from __future__ import annotations

from pathlib import Path

from rl_core.bandit.blocks import combine
from rl_core.bandit.lineage import make_blocks
from rl_core.bandit.policy import write_artefact
from rl_core.bandit.trajectories import Dataset
from rl_core.bandit.verdict import Verdict
from rl_core.config import Bandit, Settings
from rl_core.stages import deployer, generator, ingester


def make_first_policy(bandit: Bandit, settings: Settings, folder: Path) -> str:
    """Log a simulation, train on it and deploy the policy; returns its version. `folder` takes what lies in between."""
    windows = generator.run(bandit, settings, bandit.startup.rounds, bandit.startup.seed)
    ingester.run(bandit, settings, windows, folder / "dataset")
    blocks = make_blocks(Dataset.open(folder / "dataset"), bandit.agent.half_life)
    statistics = combine(blocks, head=max(block.seq_high for block in blocks))
    write_artefact(folder / "policy", bandit.problem, bandit.agent, statistics, blocks)
    verdict = Verdict(promote=True, reason="the first", champion=None, rows=bandit.startup.rounds, metrics={})
    verdict.save(folder / "verdict")
    deployed = deployer.run(bandit, settings, folder / "policy", folder / "verdict", None, "startup", "first-policy")
    return deployed.version
