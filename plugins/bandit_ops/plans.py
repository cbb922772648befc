"""What a run submits, decided from the form, the registry and the log. Knows no Airflow, so it is tested without."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from bandit_ops.runners.base import Parameters, Pipeline
from rl_core.config import Bandit

if TYPE_CHECKING:
    from rl_core.backends.base import EventStore, PolicyRegistry, Window


class Plan(TypedDict):
    """Small enough for XCom; `bandit` and `job_id` are added at submit."""

    pipeline: Pipeline
    parameters: Parameters
    enable_caching: bool


class Refused(Exception):
    """The run must not start: a person has to choose something else."""


class NothingToDo(Exception):
    """The run has nothing to train on, or no champion to improve; that is no failure."""


@dataclass(frozen=True)
class Circumstances:
    """What a plan is made from. `form` holds the run's params, `manual` whether a person started it."""

    bandit: Bandit
    form: Mapping[str, Any]
    registry: PolicyRegistry
    store: EventStore
    manual: bool


Planner = Callable[[Circumstances], Plan]


def startup_plan(at: Circumstances) -> Plan:
    """Raises Refused where a champion exists and may stay, or where the log that should be trained on is empty."""
    bandit, form, registry, store = at.bandit, at.form, at.registry, at.store
    champion = registry.alias("champion")
    if champion and not form["replace_champion"]:
        raise Refused(
            f"{bandit.name} has a champion already ({champion}), startup runs once; "
            f"use {bandit.name}_retrain, or set replace_champion"
        )
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
    if head == 0:
        raise Refused(
            f"{bandit.name} has no interaction in its log, startup with source=log needs some; "
            "log decisions and rewards first, or choose source=simulation"
        )
    common |= {"windows": json.dumps([[0, head]])}
    return {"pipeline": "retrain", "parameters": common, "enable_caching": form["enable_caching"]}


def retrain_plan(at: Circumstances) -> Plan:
    """Raises NothingToDo without a champion, or without a window to train on."""
    bandit, form, registry, store = at.bandit, at.form, at.registry, at.store
    champion = registry.alias("champion")
    if champion is None:
        raise NothingToDo(f"{bandit.name} has no champion yet; run {bandit.name}_startup first")
    windows = new_windows(registry, store)
    if form["full_retrain"]:
        windows = [(w.seq_low, w.seq_high) for w in registry.lineage(champion).windows] + windows
    if not windows:
        raise NothingToDo(f"{bandit.name} has no new interaction since seq {registry.last_attempted_seq()}")
    parameters: Parameters = {
        "windows": json.dumps(windows),
        "champion": champion,
        "full_retrain": bool(form["full_retrain"]),
        "trigger": "manual" if at.manual else "sensor",
        **_agent(form),
    }
    return {"pipeline": "retrain", "parameters": parameters, "enable_caching": form["enable_caching"]}


def new_windows(registry: PolicyRegistry, store: EventStore) -> list[Window]:
    """What no attempt has seen: one window or none."""
    low, head = registry.last_attempted_seq(), store.head()
    return [(low, head)] if head > low else []


def _agent(form: Mapping[str, Any]) -> Parameters:
    return {name: float(form[name]) for name in ("agent_alpha", "tikhonov_weight", "half_life")}
