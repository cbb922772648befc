"""Registers the policy with its lineage and, where the verdict says so, makes it the champion.

In this order: verify and probe the artefact here; keep its blocks; register; hand it to the endpoint, which probes it
again; swap the champion if it is still the one expected; wait until it answers. Whatever fails on the way, the champion
before goes on serving, and the same job run again goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from rl_core.backends import open_endpoint, open_registry
from rl_core.backends.base import Attempt, Endpoint, Exclusion, Lineage, PolicyRegistry, Window, WindowRef
from rl_core.bandit.policy import Manifest, Policy, block_name
from rl_core.bandit.verdict import Verdict
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError, ConfigError, EndpointAbsent

Trigger = Literal["startup", "sensor", "manual"]


@dataclass(frozen=True)
class Deployment:
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
    """Register and perhaps promote; a job that has done so before returns what it did.

    Raises:
        PolicyError: the artefact is damaged, or the endpoint refused it.
        PromotionConflict: another champion was promoted meanwhile.
        EndpointError: the endpoint is there but did not take the policy.
    """
    if trigger not in get_args(Trigger):
        raise ConfigError(f"trigger is {trigger!r}; it must be one of {', '.join(get_args(Trigger))}")
    registry = open_registry(bandit, settings)
    if (done := next((a for a in registry.attempts() if a.key == job_id), None)) is not None:
        return _told(Deployment(done.version or "", done.verdict == "promoted", done.reason))
    manifest = Policy.load(policy, bandit.problem).manifest
    decision = Verdict.load(verdict)
    version = _register(registry, policy, manifest, champion)
    note = ""
    if decision.promote:
        note = _promote(registry, open_endpoint(bandit, settings), version, champion)
    attempt = Attempt(
        key=job_id,
        windows=manifest.trained,
        verdict="promoted" if decision.promote else "rejected",
        version=version,
        trigger=cast(Trigger, trigger),
        reason=decision.reason + note,
        at=datetime.now(UTC),
        metrics=decision.metrics,
    )
    registry.record(attempt)
    return _told(Deployment(version, decision.promote, attempt.reason))


def _told(deployment: Deployment) -> Deployment:
    what = "promoted" if deployment.promoted else "not promoted"
    print(f"deployer: {deployment.version} {what}: {deployment.reason}", flush=True)
    return deployment


def _register(registry: PolicyRegistry, policy: Path, manifest: Manifest, champion: str | None) -> str:
    kept = {window: registry.put_block(policy / block_name(window)) for window in manifest.trained}
    windows = tuple(
        WindowRef(ref.seq_low, ref.seq_high, kept.get((ref.seq_low, ref.seq_high), ref.block))
        for ref in manifest.windows
    )
    excluded = _excluded(registry, champion, [(ref.seq_low, ref.seq_high) for ref in windows])
    return registry.register(policy, Lineage(champion, windows, excluded))


def _excluded(registry: PolicyRegistry, champion: str | None, held: Sequence[Window]) -> tuple[Exclusion, ...]:
    """What the champion excluded, and every window tried since that is not held: rejected, or rolled back."""
    inherited = registry.lineage(champion).excluded if champion else ()
    tried = (
        Exclusion(low, high, attempt.reason if attempt.verdict == "rejected" else f"{attempt.version} was rolled back")
        for attempt in registry.attempts()
        for low, high in attempt.windows
    )
    taken, excluded = list(held), []
    for exclusion in (*inherited, *tried):
        window = (exclusion.seq_low, exclusion.seq_high)
        if not any(_overlap(window, other) for other in taken):
            taken.append(window)
            excluded.append(exclusion)
    return tuple(sorted(excluded, key=lambda exclusion: exclusion.seq_low))


def _overlap(one: Window, other: Window) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _promote(registry: PolicyRegistry, endpoint: Endpoint, version: str, champion: str | None) -> str:
    """Returns what is to be said beside the verdict."""
    try:
        endpoint.stage(version)
    except EndpointAbsent:
        registry.promote(version, champion)
        return "; no prediction server runs: probed by the deployer only"
    registry.promote(version, champion)
    try:
        endpoint.wait_serving(version)
    except BanditError:
        if champion is not None:
            registry.promote(champion, version)
        raise
    return ""
