"""Decides what a run submits, from the form, the registry and the log. Knows no Airflow, so it is tested without."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from bandit_ops.runners.base import Parameters, Pipeline
from rl_core.config import Agent, Bandit

if TYPE_CHECKING:
    from rl_core.backends.contracts.registry import PolicyRegistry
    from rl_core.backends.contracts.store import EventStore

log = logging.getLogger(__name__)


class Plan(TypedDict):
    """What to submit: a pipeline with its parameters.

    Small enough for XCom; `bandit` and `job_id` are added at submit.
    """

    pipeline: Pipeline
    parameters: Parameters
    enable_caching: bool


class Refused(Exception):
    """The run must not start: a person has to choose something else."""


class NothingToDo(Exception):
    """The run has nothing to train on; that is no failure."""


@dataclass(frozen=True)
class Circumstances:
    """What a plan is made from: `form` holds the run's params, `manual` says whether a person started it."""

    bandit: Bandit
    form: Mapping[str, Any]
    registry: PolicyRegistry
    store: EventStore
    manual: bool


Planner = Callable[[Circumstances], Plan]


def startup_plan(at: Circumstances) -> Plan:
    """Plan a startup.

    Raises:
        Refused: a champion exists and may stay, or answers another problem; or the log holds nothing to train on.
    """
    from rl_core.policy.windows import acceptable_windows

    bandit, form, registry, store = at.bandit, at.form, at.registry, at.store
    champion = registry.alias("champion")
    if champion and not form["replace_champion"]:
        raise Refused(
            f"{bandit.name} has a champion already ({champion}), made by a startup or the first retrain; "
            f"use {bandit.name}_retrain, or set replace_champion to start over"
        )
    _check_champion(at, champion)
    common: Parameters = {
        "champion": champion or "",
        "full_retrain": True,  # nothing of an older champion is in the new policy
        "trigger": "startup",
        **_agent(form),
    }
    if form["source"] == "simulation":
        common |= {"rounds": int(form["rounds"]), "seed": int(form["seed"])}
        return {"pipeline": "startup", "parameters": common, "enable_caching": form["enable_caching"]}
    head = store.head()
    windows = acceptable_windows(registry, head)
    if not windows:
        none = f"only rejected or rolled-back ones among its {head:,} interactions" if head else "no interaction"
        raise Refused(
            f"{bandit.name} has {none} in its log, startup with source=log needs some; "
            "log decisions and rewards first, or choose source=simulation"
        )
    common |= {"windows": json.dumps(windows)}
    return {"pipeline": "retrain", "parameters": common, "enable_caching": form["enable_caching"]}


def retrain_plan(at: Circumstances) -> Plan:
    """Plan a retrain on the new windows; without a champion, the training of the first policy on them.

    Raises:
        NothingToDo: there is no window to train on.
        Refused: another half-life is asked for, or the champion answers another problem.
    """
    from rl_core.policy.windows import counted, new_windows

    bandit, form, registry, store = at.bandit, at.form, at.registry, at.store
    champion = registry.alias("champion")
    _check_champion(at, champion)
    head = store.head()
    windows = new_windows(registry, head)
    agent = _agent(form)
    full = champion is None or bool(form["full_retrain"]) or _declared_anew(at, champion)
    if full:
        windows = sorted(counted(registry, champion) + windows)
    elif champion:
        agent["half_life"] = _half_life(at, champion)
    if not windows:
        raise NothingToDo(f"{bandit.name}: none of its {head:,} interactions is new, so there is nothing to train on")
    parameters: Parameters = {
        "windows": json.dumps(windows),
        "champion": champion or "",
        "full_retrain": full,
        "trigger": "manual" if at.manual else "sensor",
        **agent,
    }
    return {"pipeline": "retrain", "parameters": parameters, "enable_caching": form["enable_caching"]}


def _check_champion(at: Circumstances, champion: str | None) -> None:
    """A champion of another problem is no rival, and no reason to promote."""
    from rl_core.policy.artefact import another_problem, misfit
    from rl_core.policy.manifest import read_manifest

    if champion and (difference := misfit(read_manifest(at.registry.path(champion)), at.bandit.problem)) is not None:
        raise Refused(another_problem(champion, difference))


def _declared_anew(at: Circumstances, champion: str) -> bool:
    """Whether named features are declared otherwise than for the champion: then nothing it has learnt can be added to.

    The log keeps what was sent, so all of it is trained on anew.
    """
    from rl_core.policy.artefact import redefined
    from rl_core.policy.manifest import read_manifest

    manifest, problem = read_manifest(at.registry.path(champion)), at.bandit.problem
    anew = redefined(manifest, problem)
    if anew:
        was, now = manifest.observation_version, problem.observation_version
        log.info("features are declared anew, %s of %s is %s: a full retrain, on all of the log", was, champion, now)
    return anew


def _half_life(at: Circumstances, champion: str) -> float:
    """The champion's: its blocks can't be added to any other's. A form left at the YAML's value asks for no change."""
    from rl_core.policy.manifest import read_manifest

    kept = read_manifest(at.registry.path(champion)).hyperparameters.half_life
    asked = float(at.form["half_life"])
    if asked not in (kept, at.bandit.agent.half_life):
        raise Refused(
            f"half_life can't change between windows; set full_retrain, or leave it at {kept:g}, "
            f"as {champion} has it (got {asked:g})"
        )
    if asked != kept:
        log.info("half_life stays %g, as %s has it; to make it %g, set full_retrain", kept, champion, asked)
    return kept


def _agent(form: Mapping[str, Any]) -> Parameters:
    return {name: float(form[name]) for name in Agent().numbers}
