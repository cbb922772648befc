"""The runners, which start pipelines; `get_runner` opens the one that a bandit names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandit_ops.runners.base import PipelineRunner
from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from rl_core.backends.gcp.clients import GoogleClients


def get_runner(bandit: Bandit, settings: Settings, clients: GoogleClients | None = None) -> PipelineRunner:
    """Open the runner of a bandit; `clients` act for runner vertex, else the process's own account does."""
    if bandit.runner == "local":
        from bandit_ops.runners.local import LocalRunner

        return LocalRunner(bandit, settings)
    from bandit_ops.runners.vertex import VertexRunner
    from rl_core.backends.gcp.clients import GoogleClients as Clients

    return VertexRunner(bandit, clients or Clients(bandit, settings), settings)
