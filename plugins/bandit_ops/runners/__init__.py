"""The runners, which start pipelines; `get_runner` opens the one that a bandit names."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bandit_ops.runners.base import PipelineRunner
from bandit_ops.runners.forgotten import forgotten_rows
from rl_core.config import Bandit, Settings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials


def get_runner(bandit: Bandit, settings: Settings, credentials: Credentials | None = None) -> PipelineRunner:
    """Open the runner of a bandit; `credentials` act for runner vertex, else the process's own account does."""
    forgotten = partial(forgotten_rows, bandit, settings, credentials)
    if bandit.runner == "local":
        from bandit_ops.runners.local import LocalRunner

        return LocalRunner(bandit, settings, forgotten=forgotten)
    from bandit_ops.runners.vertex import VertexRunner
    from rl_core.google_cloud.clients import GoogleClients

    return VertexRunner(bandit, GoogleClients(bandit, settings, credentials), settings, forgotten=forgotten)
