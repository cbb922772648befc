"""Imports what `environment.factory` names and makes an environment of it: in generator and simulator only."""

from __future__ import annotations

import importlib
import os
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from rl_core.environment_config import PythonWorld
from rl_core.environments.bandit_py import BanditPyAdapter, is_bandit_py
from rl_core.environments.checked import CheckedEnvironment, told
from rl_core.environments.plain import PlainEnvironment
from rl_core.environments.protocol import Environment
from rl_core.errors import ConfigError
from rl_core.problem_config import Problem


def make(world: PythonWorld, problem: Problem) -> Environment:
    """Make the environment and try it out.

    Raises:
        ConfigError: module or name are missing, it can't be made, or what is made is no environment of this problem.
        SchemaError: what it shows or gives is not what the problem says.
    """
    name = f"environment.factory {world.factory}"
    module, _, attribute = world.factory.partition(":")
    found = _named(_imported(module, name), attribute, name)
    try:
        made = found(**world.arguments)
    except Exception as error:
        raise ConfigError(f"{name}: called with {world.arguments or 'nothing'} it raised {told(error)}") from error
    return CheckedEnvironment(_adapted(made, problem, name), problem, name)


def _imported(module: str, name: str) -> ModuleType:
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # without it, who imports TF-Agents can't
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{name}: its import raised {told(error)}") from error
        raise ConfigError(
            f"{name}: there is no module {error.name}; install it for the Python of jobs and simulator "
            "(BANDIT_JOB_PYTHON), or put it into the checkout, beside rl_core"
        ) from error
    except Exception as error:
        raise ConfigError(f"{name}: its import raised {told(error)}") from error


def _named(module: ModuleType, attribute: str, name: str) -> Any:
    found = getattr(module, attribute, None)
    if not callable(found):
        near = get_close_matches(attribute, vars(module), 1)
        got = "has no such name" if found is None else f"holds a {type(found).__name__} under it"
        hint = f"did you mean {near[0]}?" if near and found is None else "name a class or a function of it"
        raise ConfigError(f"{name}: the module {got}; {hint}")
    return found


def _adapted(made: object, problem: Problem, name: str) -> Environment:
    if is_bandit_py(made):
        try:
            return BanditPyAdapter(made, problem.actions)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    if missing := [method for method in ("observe", "reward") if not callable(getattr(made, method, None))]:
        raise ConfigError(
            f"{name}: it makes a {type(made).__name__} without {' and '.join(missing)}; an environment has "
            "observe(rng, n) and reward(observation, action_id, event_id), or is a BanditPyEnvironment of TF-Agents"
        )
    return PlainEnvironment(made)  # type: ignore[arg-type]
