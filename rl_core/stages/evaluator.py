"""Judges challenger against champion, off-policy, on rows that neither was trained on.

Both are judged as they would serve: highest score, with the exploration floor. The rows are the dataset's; each of its
five folds is judged by statistics without that fold, so nothing is judged by what it taught (cross-fitting,
Chernozhukov et al. 2018, "Double/debiased machine learning"). The champion loses a fold only where it was trained on
these windows too, which is so in a full retrain.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.backends.contracts.store import Window
from rl_core.bandit import ope
from rl_core.bandit.blocks import NUM_FOLDS, Block
from rl_core.bandit.exploration import probabilities
from rl_core.bandit.linucb import Array, LinUCB
from rl_core.config import Bandit, Settings
from rl_core.dataset.trajectories import Dataset, Rows
from rl_core.policy.artefact import Manifest, block_name, misfit, read_manifest
from rl_core.policy.lineage import load_block, load_blocks, statistics_without
from rl_core.policy.verdict import Verdict

MIN_ROWS = 10  # two in a fold; fewer are too often alike, as rewards of 0 and 1 are, and then seem to have no spread


@dataclass(frozen=True, eq=False)
class _Contender:
    """A policy as a sum of blocks; `seen` are the dataset's windows if it was trained on them."""

    blocks: Sequence[Block]
    manifest: Manifest
    seen: Sequence[Window]

    def without(self, fold: int) -> LinUCB:
        agent = self.manifest.hyperparameters
        statistics = statistics_without(self.blocks, self.seen, fold)
        return LinUCB(statistics, agent.agent_alpha, agent.tikhonov_weight)


@dataclass(frozen=True, eq=False)
class _Judged:
    """Logged rows; the reward model's means [n, K]; what each policy would do, as probabilities [n, K]."""

    logged: ope.LoggedRows
    means: Array
    challenger: Array
    champion: Array | None


@dataclass(frozen=True)
class _Decision:
    promote: bool
    reason: str
    metrics: dict[str, float]


def run(
    bandit: Bandit,
    settings: Settings,
    dataset: Path,
    policy: Path,
    champion: str | None,
    full_retrain: bool,
    out: Path,
) -> Verdict:
    """Write `verdict.json` into `out`: promote unless the challenger is clearly worse.

    Clearly worse: the whole 95 % interval of the paired doubly robust difference lies below 0. Fewer than MIN_ROWS rows
    judge nobody.

    Raises:
        DataError: the dataset is damaged.
        PolicyError: the policy is.
        RegistryError: the champion is unknown.
    """
    started = time.perf_counter()
    rows = Dataset.open(dataset)
    registry = open_backend(bandit, settings).registry()
    manifest = read_manifest(policy)
    challenger = _Contender(_blocks_of(policy, manifest, registry), manifest, rows.windows)
    rival, unrivalled = _champion(bandit, registry, champion, rows.windows if full_retrain else ())
    if rows.count() < MIN_ROWS:
        decision = _Decision(True, f"too few rows to judge: {rows.count()}, at least {MIN_ROWS} are needed", {})
    else:
        decision = _decide(_judge(rows, challenger, rival, bandit.serving.epsilon), unrivalled)
    decision.metrics["quarantined"] = float(sum(rows.index.quarantined.values()))
    verdict = Verdict(champion=champion, rows=rows.count(), **asdict(decision))
    verdict.save(out)
    decided = "promote" if verdict.promote else "reject"
    print(f"evaluator: {decided}: {verdict.reason} ({time.perf_counter() - started:.2f} s)", flush=True)
    return verdict


def _blocks_of(policy: Path, manifest: Manifest, registry: PolicyRegistry) -> list[Block]:
    inherited = [ref for ref in manifest.windows if (ref.seq_low, ref.seq_high) not in manifest.trained]
    trained = [ref for ref in manifest.windows if ref not in inherited]
    beside = [load_block(policy / block_name((ref.seq_low, ref.seq_high)), ref) for ref in trained]
    return [*load_blocks(registry, inherited), *beside]


def _champion(
    bandit: Bandit, registry: PolicyRegistry, version: str | None, seen: Sequence[Window]
) -> tuple[_Contender | None, str]:
    """The champion, or why there is none to compare with."""
    if version is None:
        return None, "there is no champion yet"
    manifest = read_manifest(registry.path(version))
    if (difference := misfit(manifest, bandit.problem)) is not None:
        return None, f"the champion answers another problem: its {difference}"
    return _Contender(load_blocks(registry, registry.lineage(version).windows), manifest, seen), ""


def _judge(dataset: Dataset, challenger: _Contender, champion: _Contender | None, epsilon: float) -> _Judged:
    parts = []
    for fold in range(NUM_FOLDS):
        shards = list(dataset.read(fold=fold))
        if shards:
            rows = Rows.concatenated(shards)
            new, old = challenger.without(fold), champion.without(fold) if champion else None
            parts.append(
                (
                    rows.action,
                    rows.reward.astype(np.float64),
                    rows.propensity,
                    new.means(rows.observation),
                    probabilities(new.scores(rows.observation), rows.eligible, epsilon),
                    probabilities(old.scores(rows.observation), rows.eligible, epsilon) if old else rows.propensity,
                )
            )
    action, reward, propensity, means, new_served, old_served = (np.concatenate(p) for p in zip(*parts, strict=True))
    logged = ope.LoggedRows(action, reward, propensity)
    return _Judged(logged, means, new_served, old_served if champion else None)


def _decide(judged: _Judged, unrivalled: str) -> _Decision:
    metrics = {"behaviour_mean": float(judged.logged.rewards.mean())}
    new = _value("challenger", judged, judged.challenger, metrics)
    shown = f"estimated {new.value:.3f} ({new.low:.3f} to {new.high:.3f}) per decision"
    if judged.champion is None:
        return _Decision(True, f"{unrivalled}; the challenger is {shown}", metrics)
    old = _value("champion", judged, judged.champion, metrics)
    difference = ope.paired_difference(new, old)
    _put("difference", difference, metrics)
    worse = difference.high < 0
    reason = (
        f"the challenger is {shown}, {difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f}) "
        f"against the champion on {len(judged.logged.rewards)} rows: {'clearly' if worse else 'not clearly'} worse"
    )
    return _Decision(not worse, reason, metrics)


def _value(who: str, judged: _Judged, evaluation: Array, metrics: dict[str, float]) -> ope.Estimate:
    """The doubly robust estimate; IPS and SNIPS are put beside it."""
    estimate = ope.dr(judged.logged, evaluation, judged.means)
    for other in (estimate, ope.ips(judged.logged, evaluation), ope.snips(judged.logged, evaluation)):
        _put(who, other, metrics)
    return estimate


def _put(who: str, estimate: ope.Estimate, metrics: dict[str, float]) -> None:
    name = f"{who}_{estimate.estimator.split()[0].lower()}"
    metrics |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
