"""The base of every operator and sensor: a bandit, an identity on Google Cloud, and access to its backend."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from rl_core.backends import backend_class
from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from bandit_ops.runners.base import PipelineRunner
    from rl_core.backends.contracts.backend import Backend
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.store import EventStore


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

    def credentials(self) -> Credentials | None:
        """Return who acts on Google Cloud; None for a bandit that has nothing there."""
        if self.gcp_conn_id is None or not backend_class(self.bandit).PARTS:
            return None
        from bandit_ops.google import credentials_of

        return credentials_of(self.bandit, self.gcp_conn_id, self.impersonation_chain)

    def open_backend(self) -> Backend:
        """Open the bandit's backend as the acting account."""
        from rl_core.backends import open_backend

        return open_backend(self.bandit, Settings.from_environment(), self.credentials())

    def open_runner(self) -> PipelineRunner:
        from bandit_ops.runners import get_runner

        return get_runner(self.bandit, Settings.from_environment(), self.credentials())

    def open_registry(self) -> PolicyRegistry:
        return self.open_backend().registry()

    def open_store(self) -> EventStore:
        return self.open_backend().store()
