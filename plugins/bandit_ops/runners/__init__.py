"""What starts pipelines: `get_runner` gives the runner a bandit names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandit_ops.runners.base import PipelineRunner
from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from rl_core.backends.gcp.clients import GoogleClients


def get_runner(bandit: Bandit, settings: Settings, clients: GoogleClients | None = None) -> PipelineRunner:
    """`clients` act for runner vertex; without them it acts as the process's own account."""
    if bandit.runner == "local":
        from bandit_ops.runners.local import LocalRunner

        return LocalRunner(bandit, settings)
    from bandit_ops.runners.vertex import VertexRunner
    from rl_core.backends.gcp.clients import GoogleClients as Clients

    return VertexRunner(bandit, clients or Clients(bandit, settings), settings)
