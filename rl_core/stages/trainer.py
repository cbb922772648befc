"""Trains LinUCB in closed form: one block per window of the dataset, added to the blocks of the champion's lineage."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from rl_core.backends import open_backend
from rl_core.bandit.blocks import action_ids, combine
from rl_core.bandit.linucb import Statistics, dependent
from rl_core.config import Agent, Bandit, Settings
from rl_core.dataset.trajectories import Dataset
from rl_core.feature_config import names_of
from rl_core.features.catalogue import Catalogue
from rl_core.policy.artefact import Manifest, read_manifest, write_artefact
from rl_core.policy.lineage import load_blocks, make_blocks
from rl_core.policy.manifest import code_digest
from rl_core.problem_config import Problem


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
        PolicyError: blocks can't be added (versions, units of the reward, half-life, overlapping windows).
        RegistryError: the champion is unknown.
    """
    started = time.perf_counter()
    rows = Dataset.open(dataset)
    trained = make_blocks(rows, agent.half_life)
    registry = open_backend(bandit, settings).registry()
    parent = read_manifest(registry.path(champion)) if champion else None
    inherited = registry.lineage(champion).windows if champion and not full_retrain else ()
    blocks = [*load_blocks(registry, inherited, parent.actions if parent else ()), *trained]
    actions, encoder = action_ids(blocks), rows.index.encoder
    statistics = combine(blocks, head=max(block.seq_high for block in blocks), actions=actions)
    scale = statistics.scale
    summed = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    manifest = write_artefact(
        out,
        bandit.problem,
        agent,
        statistics,
        trained,
        scale=scale,
        actions=actions,
        encoder=encoder,
        catalogue=_catalogue(bandit.problem, agent, parent),
        features=next((shard.observation for shard in rows.read() if len(shard)), None),
        action_sets=parent.named_sets if parent else {},
        retired=dict.fromkeys((*parent.retired, *parent.features)) if parent else (),
        parent=champion,
        inherited=inherited,
        code_digest=code_digest(),
    )
    print(
        f"trainer: {rows.count()} interactions in {summed - started:.2f} s, {len(blocks)} blocks "
        f"({len(inherited)} inherited), solved in {time.perf_counter() - summed:.2f} s"
        f"{_dependent(statistics, bandit.problem)}",
        flush=True,
    )
    return manifest


def _catalogue(problem: Problem, agent: Agent, parent: Manifest | None) -> Catalogue | None:
    if not problem.action_features:
        return None
    return Catalogue.of(problem, agent.crosses, parent.catalogue if parent else None)


def _dependent(statistics: Statistics, problem: Problem) -> str:
    """Name the features that add nothing, for the log line: always 0, or sums of others."""
    named = [*(names_of(problem.features) or range(problem.observation_dim)), "intercept"]
    names = ", ".join(str(named[index]) for index in dependent(statistics))
    return f"; features that depend on others, or are always 0: {names}" if names else ""
