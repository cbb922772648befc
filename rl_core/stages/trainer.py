"""Trains LinUCB in closed form: one block per window of the dataset, added to the blocks of the champion's lineage."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from rl_core.backends import open_backend
from rl_core.bandit.blocks import combine
from rl_core.bandit.linucb import LinUCB
from rl_core.config import Agent, Bandit, Settings
from rl_core.dataset.trajectories import Dataset
from rl_core.policy import saved_model
from rl_core.policy.artefact import SAVED_MODEL, Manifest, write_artefact
from rl_core.policy.lineage import load_blocks, make_blocks
from rl_core.policy.manifest import code_digest


def run(
    bandit: Bandit,
    settings: Settings,
    dataset: Path,
    champion: str | None,
    full_retrain: bool,
    agent: Agent,
    out: Path,
) -> Manifest:
    """Write the policy artefact into `out`. One pass: a second epoch would count every row twice.

    Without `full_retrain` the policy also holds the champion's windows; with it, the dataset's alone.

    Raises:
        DataError: the dataset is missing or damaged.
        PolicyError: blocks can't be added (versions, half-life, overlapping windows), or nothing was learnt.
        RegistryError: the champion is unknown.
    """
    started = time.perf_counter()
    rows = Dataset.open(dataset)
    trained = make_blocks(rows, agent.half_life)
    registry = open_backend(bandit, settings).registry()
    inherited = registry.lineage(champion).windows if champion and not full_retrain else ()
    blocks = [*load_blocks(registry, inherited), *trained]
    statistics = combine(blocks, head=max(block.seq_high for block in blocks))
    summed = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    saved_model.export(LinUCB(statistics, agent.agent_alpha, agent.tikhonov_weight), out / SAVED_MODEL)
    manifest = write_artefact(
        out,
        bandit.problem,
        agent,
        statistics,
        trained,
        parent=champion,
        inherited=inherited,
        code_digest=code_digest(),
    )
    print(
        f"trainer: {rows.count()} interactions in {summed - started:.2f} s, {len(blocks)} blocks "
        f"({len(inherited)} inherited), exported in {time.perf_counter() - summed:.2f} s",
        flush=True,
    )
    return manifest
