"""The endpoint contract: what serves predictions, on this machine or on Vertex AI."""

from __future__ import annotations

from typing import Any, Protocol


class Endpoint(Protocol):
    """What serves predictions, as deployer and rollback hand it a new champion."""

    def load(self, version: str, timeout_s: float = 30.0) -> None:
        """Return once the endpoint has loaded the version, which the registry has staged, and its probes matched.

        Raises EndpointAbsent where none was started, EndpointError, PolicyError.
        """

    def serve(self, version: str, timeout_s: float = 30.0) -> None:
        """Return once the version, which the registry has promoted, answers. Raises EndpointError."""

    def state(self) -> dict[str, Any]:
        """Return `{"serves", "champion", "challenger", "loaded": […], "refused": {version: reason}, …}`.

        `serves` is the policy_version of its answers: the champion, "uniform" in a cold start, None where it refuses.
        Raises EndpointError.
        """
