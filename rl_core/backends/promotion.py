"""Makes a version champion, for deployer and rollback alike: whatever fails, the champion before serves on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from rl_core.backends.contracts.endpoint import Endpoint
from rl_core.backends.contracts.registry import Attempt, PolicyRegistry
from rl_core.errors import BanditError, EndpointAbsent, PromotionConflict

NO_SERVER = "; no prediction server runs: probed by the deployer only"


def make_champion(
    registry: PolicyRegistry,
    endpoint: Endpoint,
    version: str,
    champion: str | None,
    attempt: Attempt | None = None,
) -> None:
    """Stage the version in the registry, have the endpoint load and probe it, promote it, have the endpoint serve it.

    A training's `attempt` is recorded in the same step as the swap, and undone with it. Where no server runs, the next
    one starts with the new champion, and the attempt's reason says so.

    Raises:
        PolicyError: the endpoint refused the version.
        PromotionConflict: the champion is not `champion`.
        EndpointError: the endpoint is there but did not take the version.
    """
    registry.stage(version)
    try:
        endpoint.load(version)
    except EndpointAbsent:
        registry.promote(version, champion, attempt and replace(attempt, reason=attempt.reason + NO_SERVER))
        return
    registry.promote(version, champion, attempt)
    try:
        endpoint.serve(version)
    except BanditError:
        with suppress(PromotionConflict):  # another champion by now: there is nothing to undo
            registry.restore(champion, version, attempt)
        raise
