"""Judges challenger against champion, off-policy, on rows that neither was trained on.

Both are judged as they would serve: highest score, with the exploration floor. The rows are the dataset's; each of its
five folds is judged by statistics without that fold, so nothing is judged by what it taught (cross-fitting,
Chernozhukov et al. 2018, "Double/debiased machine learning"). The champion loses a fold only where it was trained on
these windows too, which is so in a full retrain.
What follows from the estimates: `rl_core.policy.judgement`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.backends.contracts.store import EventStore, Window
from rl_core.bandit import ope
from rl_core.bandit.blocks import NUM_FOLDS, Block, action_ids
from rl_core.bandit.exploration import probabilities
from rl_core.config import Bandit, Settings
from rl_core.dataset.trajectories import Dataset, Rows
from rl_core.errors import DataError, PolicyError
from rl_core.features.encoder import Encoder
from rl_core.policy import remarks
from rl_core.policy.artefact import Manifest, another_problem, block_name, misfit, read_manifest, redefined
from rl_core.policy.judgement import MIN_ROWS, Decision, Judged, decide
from rl_core.policy.lineage import load_block, load_blocks, statistics_without
from rl_core.policy.redefinition import OtherDefinition
from rl_core.policy.solving import Model, Recipe
from rl_core.policy.verdict import Verdict


@dataclass(frozen=True, eq=False)
class _Contender:
    """A policy as a sum of blocks; `seen` are the dataset's windows if it was trained on them.

    `log` is what it makes of the dataset's rows where its features were declared otherwise than the dataset's.
    """

    blocks: Sequence[Block]
    manifest: Manifest
    recipe: Recipe
    seen: Sequence[Window]
    log: OtherDefinition | None = None

    def without(self, fold: int, actions: Sequence[str]) -> Model:
        own = action_ids(self.blocks)
        return self.recipe.solve(statistics_without(self.blocks, self.seen, fold, own), own, actions)

    def features(self, rows: Rows, encoder: Encoder) -> NDArray[np.float32]:
        """Its own features of rows that this encoder made: another one's only where it was given an intercept since."""
        own = self.manifest.encodes
        if self.log is not None:
            return self.log.features(rows, own)
        if own == encoder:
            return rows.observation
        encoded: NDArray[np.float32] = own.encode(rows.observation[:, : own.dim])
        return encoded


def run(
    bandit: Bandit,
    settings: Settings,
    dataset: Path,
    policy: Path,
    champion: str | None,
    full_retrain: bool,
    out: Path,
) -> Verdict:
    """Write `verdict.json` into `out`: promote unless the challenger is clearly worse, or nothing can be believed.

    Fewer than MIN_ROWS rows judge nobody.

    Raises:
        DataError: the dataset is damaged, or nobody knows of almost all rows which actions they could choose from.
        PolicyError: the policy is, or the champion answers another problem.
        RegistryError: the champion is unknown.
    """
    started = time.perf_counter()
    rows = Dataset.open(dataset)
    backend = open_backend(bandit, settings)
    registry = backend.registry()
    manifest = read_manifest(policy)
    challenger = _Contender(_blocks_of(policy, manifest, registry), manifest, manifest.recipe(), rows.windows)
    rival = _champion(bandit, registry, champion, rows.windows, full_retrain, backend.store)
    unjudged = rows.index.unjudged
    count = rows.count() - unjudged
    if rival and rival.log:
        count = sum(len(_judged_by(rival, shard)) for shard in rows.read())
    few = f"too few rows to judge: {count}, at least {MIN_ROWS} are needed"
    if count < MIN_ROWS <= count + unjudged:  # no verdict, so that the rows stay new
        raise DataError(f"{few}; {remarks.only_trained(unjudged)}")
    if count < MIN_ROWS:
        decision = Decision(rival is None, few, {})
    else:
        others = bandit.validation.other_policies if rival is None else ()
        judged = _judge(rows, challenger, rival, bandit.serving.epsilon, _seqs_of(others, rows, backend.store))
        decision = decide(judged, bandit)
    said = [decision.reason]
    if rival:
        said += remarks.differences(rival.manifest, manifest, bandit.problem)
    if rival and rival.log:
        said.append(remarks.declared_anew(rival.manifest, manifest, rows.count() - unjudged - count))
    decision.metrics["quarantined"] = float(sum(rows.index.quarantined.values()))
    decision.metrics["unjudged"] = float(unjudged)
    if unjudged:
        said.append(remarks.only_trained(unjudged))
    decision = replace(decision, reason="; ".join(said))
    verdict = Verdict(champion=champion, rows=rows.count(), **asdict(decision))
    verdict.save(out)
    decided = "promote" if verdict.promote else "reject"
    print(f"evaluator: {decided}: {verdict.reason} ({time.perf_counter() - started:.2f} s)", flush=True)
    return verdict


def _blocks_of(policy: Path, manifest: Manifest, registry: PolicyRegistry) -> list[Block]:
    inherited = [ref for ref in manifest.windows if (ref.seq_low, ref.seq_high) not in manifest.trained]
    trained = [ref for ref in manifest.windows if ref not in inherited]
    beside = [load_block(policy / block_name((ref.seq_low, ref.seq_high)), ref, manifest.actions) for ref in trained]
    return [*load_blocks(registry, inherited, manifest.actions), *beside]


def _champion(
    bandit: Bandit,
    registry: PolicyRegistry,
    version: str | None,
    windows: Sequence[Window],
    full_retrain: bool,
    open_store: Callable[[], EventStore],
) -> _Contender | None:
    if version is None:
        return None
    manifest = read_manifest(registry.path(version))
    if (difference := misfit(manifest, bandit.problem)) is not None:
        raise PolicyError(another_problem(version, difference))
    blocks = load_blocks(registry, registry.lineage(version).windows, manifest.actions)
    log = OtherDefinition.of(manifest.features, windows, open_store()) if redefined(manifest, bandit.problem) else None
    return _Contender(blocks, manifest, manifest.recipe(bandit.problem), windows if full_retrain else (), log)


def _judged_by(champion: _Contender | None, rows: Rows) -> Rows:
    """Leave out rows of which nobody knows what was eligible, and those that the champion can't read.

    It can't where its features were declared otherwise.
    """
    known = rows.eligible.any(axis=1)
    rows = rows if known.all() else rows.take(np.flatnonzero(known))
    return rows if champion is None or champion.log is None else rows.take(champion.log.readable(rows))


def _seqs_of(policies: Sequence[str], dataset: Dataset, open_store: Callable[[], EventStore]) -> NDArray[np.int64]:
    """The seqs within the dataset's windows whose decisions were made by one of these policies."""
    found = [np.empty(0, np.int64)]
    for window in dataset.windows if policies else ():
        rows = open_store().interactions(window, ["seq", "policy_version"])
        found.append(rows["seq"].to_numpy()[pc.is_in(rows["policy_version"], pa.array(policies)).to_numpy()])
    return np.concatenate(found)


def _judge(
    dataset: Dataset,
    challenger: _Contender,
    champion: _Contender | None,
    epsilon: float,
    by_others: NDArray[np.int64],
) -> Judged:
    parts = []
    for fold in range(NUM_FOLDS):
        shards = list(dataset.read(fold=fold))
        if shards:
            rows = _judged_by(champion, Rows.concatenated(shards))
            actions, encoder = dataset.index.actions, dataset.index.encoder
            new, old = challenger.without(fold, actions), champion.without(fold, actions) if champion else None
            parts.append(
                (
                    rows.action,
                    rows.reward.astype(np.float64),
                    rows.propensity,
                    np.isin(rows.seq, by_others),
                    new.means(rows.observation),
                    rows.eligible.sum(axis=1),
                    probabilities(new.scores(rows.observation), rows.eligible, epsilon),
                    probabilities(old.scores(champion.features(rows, encoder)), rows.eligible, epsilon)
                    if champion and old
                    else rows.propensity,
                    ~rows.observation.any(axis=1),
                )
            )
    action, reward, propensity, others, means, eligible, new_served, old_served, empty = (
        np.concatenate(p) for p in zip(*parts, strict=True)
    )
    logged = ope.LoggedRows(action, reward, propensity)
    learnt = challenger.manifest.probes.clear
    return Judged(
        logged, means, eligible, new_served, old_served if champion else None, others, learnt, float(empty.mean())
    )
