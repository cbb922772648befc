"""Environments: simulated worlds in which users arrive, show something, and reward the action that they get."""

from __future__ import annotations

from rl_core.config import Bandit, Settings
from rl_core.environment_config import PythonWorld
from rl_core.environments.protocol import Environment


def load_environment(bandit: Bandit, settings: Settings) -> tuple[Environment, str]:
    """Build the bandit's environment; return it and what it stands on.

    Raises:
        ConfigError: the bandit has none, or it can't be built, or doesn't fit the bandit's problem.
        DataError: the ratings file is missing or malformed.
        SchemaError: what it shows or gives for it is not what the problem says.
    """
    if isinstance(bandit.environment, PythonWorld):
        from rl_core.environments.factory import make

        return make(bandit.environment, bandit.problem), bandit.environment.factory
    from rl_core.movielens import environment as movielens

    return movielens.load_environment(bandit, settings)
