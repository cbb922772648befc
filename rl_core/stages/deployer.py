"""Registers the policy with its lineage and, where the verdict says so, makes it the champion.

In this order: verify and probe the artefact here; keep its blocks; register; hand it to the endpoint, which probes it
again; swap the champion if it is still the one expected and record the attempt, both in one step; wait until it
answers. Whatever fails on the way, the champion before goes on serving, and the job run again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Attempt, Lineage, PolicyRegistry, WindowRef
from rl_core.backends.promotion import make_champion
from rl_core.config import Agent, Bandit, Settings
from rl_core.errors import ConfigError
from rl_core.monitoring import experiment_log
from rl_core.policy.artefact import Manifest, Policy, block_name, read_manifest
from rl_core.policy.verdict import Verdict
from rl_core.policy.windows import exclusions

Trigger = Literal["startup", "sensor", "manual"]


@dataclass(frozen=True)
class Deployment:
    """What the deployer did: the version, whether it was promoted, and why."""

    version: str
    promoted: bool
    reason: str


def run(
    bandit: Bandit,
    settings: Settings,
    policy: Path,
    verdict: Path,
    champion: str | None,
    trigger: str,
    job_id: str,
) -> Deployment:
    """Register a policy and, where the verdict says so, promote it; a decision that was made before is not repeated.

    That goes for what this job has decided and for a promotion of this very policy, so a retry never undoes the
    rollback of what its predecessor promoted.

    Raises:
        PolicyError: the artefact is damaged, or the endpoint refused it.
        PromotionConflict: another champion was promoted meanwhile.
        EndpointError: the endpoint is there but did not take the policy.
    """
    if trigger not in get_args(Trigger):
        raise ConfigError(f"trigger is {trigger!r}; it must be one of {', '.join(get_args(Trigger))}")
    registry = open_backend(bandit, settings).registry()
    attempt = _attempt(bandit, settings, registry, policy, verdict, champion, cast(Trigger, trigger), job_id)
    deployment = _deployment(registry, attempt)
    metrics = attempt.metrics | {"promoted": float(deployment.promoted)}
    last_seq = max((high for _, high in attempt.windows), default=0)
    experiment_log.measured(settings.state_dir(bandit) / experiment_log.EXPERIMENTS / job_id, metrics, last_seq)
    return deployment


def _attempt(
    bandit: Bandit,
    settings: Settings,
    registry: PolicyRegistry,
    policy: Path,
    verdict: Path,
    champion: str | None,
    trigger: Trigger,
    job_id: str,
) -> Attempt:
    """What this job, or the one that promoted this very policy, has recorded in the registry."""
    if (done := _recorded(registry, job_id)) is not None:
        return done
    manifest = Policy.load(policy, bandit.problem).manifest
    decision = Verdict.load(verdict)
    version = _register(registry, policy, manifest, champion)
    if (done := _promoted_before(registry, version)) is not None:
        return done
    attempt = Attempt(
        key=job_id,
        windows=manifest.trained,
        verdict="promoted" if decision.promote else "rejected",
        version=version,
        trigger=trigger,
        reason=decision.reason,
        at=datetime.now(UTC),
        metrics=decision.metrics,
    )
    if decision.promote:
        make_champion(registry, open_backend(bandit, settings).endpoint(), version, champion, attempt)
    else:
        registry.record(attempt)
    return _recorded(registry, job_id) or attempt


def _recorded(registry: PolicyRegistry, key: str) -> Attempt | None:
    return next((attempt for attempt in registry.attempts() if attempt.key == key), None)


def _promoted_before(registry: PolicyRegistry, version: str) -> Attempt | None:
    """The promotion of this policy, if there was one: of the same blocks and agent, whatever code trained it.

    The artefacts of other policies are not looked at: an old one may have been removed.
    """

    def agent(version: str) -> Agent:
        return read_manifest(registry.path(version)).hyperparameters

    lineage = registry.lineage(version)
    promoted = [(a, a.version) for a in registry.attempts() if a.verdict == "promoted" and a.version]
    alike = [(a, other) for a, other in promoted if registry.lineage(other) == lineage]
    return next((a for a, other in alike if other == version or agent(other) == agent(version)), None)


def _deployment(registry: PolicyRegistry, attempt: Attempt) -> Deployment:
    champion, version, reason = registry.alias("champion"), attempt.version or "", attempt.reason
    promoted = attempt.verdict == "promoted" and version == champion
    if attempt.verdict == "promoted" and not promoted:
        reason += f"; {champion or 'none'} is the champion since"
    print(f"deployer: {version} {'promoted' if promoted else 'not promoted'}: {reason}", flush=True)
    return Deployment(version, promoted, reason)


def _register(registry: PolicyRegistry, policy: Path, manifest: Manifest, champion: str | None) -> str:
    kept = {window: registry.put_block(policy / block_name(window)) for window in manifest.trained}
    windows = tuple(
        WindowRef(ref.seq_low, ref.seq_high, kept.get((ref.seq_low, ref.seq_high), ref.block))
        for ref in manifest.windows
    )
    excluded = exclusions(registry, champion, [(ref.seq_low, ref.seq_high) for ref in windows])
    return registry.register(policy, Lineage(champion, windows, excluded))
