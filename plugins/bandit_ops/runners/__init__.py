"""What starts pipelines: `get_runner` gives the runner a bandit names."""

from __future__ import annotations

from bandit_ops.runners.base import PipelineRunner
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError


def get_runner(bandit: Bandit, settings: Settings) -> PipelineRunner:
    """Raises ConfigError for a runner that does not exist yet."""
    if bandit.runner == "local":
        from bandit_ops.runners.local import LocalRunner

        return LocalRunner(bandit, settings)
    raise ConfigError(f"{bandit.name}: runner={bandit.runner!r} is not available; set runner: local")
