"""The base of every operator and sensor: a bandit, an identity on Google Cloud, and access to its backend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from bandit_ops.runners.base import PipelineRunner
    from rl_core.backends.contracts.endpoint import Endpoint
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.store import EventStore
    from rl_core.backends.gcp.clients import GoogleClients


class BanditTask(BaseOperator):
    """Gives an operator its bandit's runner, registry, store and endpoint.

    Stands before BaseSensorOperator among a sensor's bases. An operator itself: Airflow can't make a task whose
    constructor is not an operator's. Everything is opened in the task's own process: deltalake and gRPC must not be
    inherited by a fork.

    Args:
        gcp_conn_id: Airflow connection; default: `google.gcp_conn_id` of the bandit.
        impersonation_chain: service account or chain of them to act as; default: `google.impersonation_chain`.
    """

    template_fields: Collection[str] = ("gcp_conn_id", "impersonation_chain")

    def __init__(
        self,
        *,
        bandit: Bandit,
        gcp_conn_id: str | None = None,
        impersonation_chain: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        google = bandit.google
        self.bandit = bandit
        self.gcp_conn_id = gcp_conn_id or (google.gcp_conn_id if google else None)
        self.impersonation_chain = impersonation_chain or (list(google.impersonation_chain) if google else None) or None

    @property
    def clients(self) -> GoogleClients | None:
        """The Google clients; None for a bandit that has nothing on Google Cloud."""
        if self.gcp_conn_id is None or (self.bandit.backend, self.bandit.runner) == ("local", "local"):
            return None
        from bandit_ops.google import clients_of

        return clients_of(self.bandit, self.gcp_conn_id, self.impersonation_chain)

    def open_runner(self) -> PipelineRunner:
        from bandit_ops.runners import get_runner

        return get_runner(self.bandit, Settings.from_environment(), self.clients)

    def open_registry(self) -> PolicyRegistry:
        from rl_core.backends import open_registry

        return open_registry(self.bandit, Settings.from_environment(), self.clients)

    def open_store(self) -> EventStore:
        from rl_core.backends import open_store

        return open_store(self.bandit, Settings.from_environment(), self.clients)

    def open_endpoint(self) -> Endpoint:
        from rl_core.backends import open_endpoint

        return open_endpoint(self.bandit, Settings.from_environment(), self.clients)
