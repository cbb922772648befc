"""The forms of the DAGs, typed and described; defaults come from the bandit's YAML."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from rl_core.backends import backend_class
from rl_core.config import Bandit

Params = dict[str, Param]


def startup_params(bandit: Bandit) -> Params:
    sources = ["simulation", "log"] if bandit.environment else ["log"]
    return {
        "source": Param(
            bandit.startup.source,
            type="string",
            enum=sources,
            title="Source",
            description="simulation: a uniform random policy acts first. log: train on what is logged.",
        ),
        "rounds": _count(bandit.startup.rounds, "Rounds", "Decisions of the random policy (simulation only)."),
        "seed": Param(
            bandit.startup.seed,
            type="integer",
            minimum=0,
            title="Seed",
            description="The same seed gives the same decisions.",
        ),
        "replace_champion": _switch(
            "Replace the champion", "Start over although a champion serves; the new policy is judged against it."
        ),
        **_agent_params(bandit),
        "enable_caching": _caching(bandit),
        **(provision_params() if backend_class(bandit).PARTS else {}),
    }


def retrain_params(bandit: Bandit) -> Params:
    return {
        "skip_gate": _switch("Skip the gate", "Train now on whatever is new; wait for nothing."),
        "min_new_interactions": _count(
            bandit.retrain.min_new_interactions, "Threshold", "New interactions that open the gate."
        ),
        "full_retrain": _switch(
            "Full retrain", "Recompute from every window of the champion and the new ones; needs no new interaction."
        ),
        **_agent_params(bandit),
        "enable_caching": _caching(bandit),
    }


def simulate_params(bandit: Bandit) -> Params:
    return {
        "decisions": _count(bandit.simulate.decisions, "Decisions", "How many users ask for a decision."),
        "concurrency": _count(bandit.simulate.concurrency, "Concurrency", "How many of them at a time.", most=256),
        "seed": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Seed",
            description="Of the order of the users. Empty: another one each run; its log says which, to repeat it.",
        ),
        "round": Param(
            0, type="integer", minimum=0, title="Round", description="The environment's round; drift begins at one."
        ),
    }


def rollback_params() -> Params:
    return {
        "version": Param(
            "previous",
            type="string",
            pattern=r"^(previous|[a-z][-a-z0-9]*-\d{4,})$",
            title="Version",
            description="What serves again: previous (the champion's parent) or a version as movielens-v1-0003.",
        )
    }


def teardown_params(bandit: Bandit) -> Params:
    return {
        "confirm": Param(
            "",
            type="string",
            minLength=1,
            title="Type the prefix",
            description=f"{bandit.prefix} or {bandit.id}: what is taken away, log and policies included.",
        ),
        "force": _switch("Force", "Even while a training holds the lease; a job that runs is cancelled."),
    }


def provision_params() -> Params:
    return {
        "provision": Param(
            True,
            type="boolean",
            title="Provision",
            description="Make what is missing on Google Cloud. Off: only verify, and fail with a list of it.",
        )
    }


def _agent_params(bandit: Bandit) -> Params:
    agent = bandit.agent
    return {
        "agent_alpha": Param(
            agent.agent_alpha,
            type="number",
            minimum=0,
            title="α (agent_alpha)",
            description="Width of the confidence bound: more explores more.",
        ),
        "tikhonov_weight": Param(
            agent.tikhonov_weight,
            type="number",
            exclusiveMinimum=0,
            title="λ (tikhonov_weight)",
            description="Ridge penalty, relative to the features' mean squares; never discounted.",
        ),
        "half_life": Param(
            agent.half_life,
            type="number",
            minimum=0,
            title="Half-life",
            description="Of a row's weight, in interactions; 0: it never decays. Changing it needs a full retrain.",
        ),
    }


def _count(default: int, title: str, description: str, most: int | None = None) -> Param:
    limits: dict[str, Any] = {"minimum": 1} if most is None else {"minimum": 1, "maximum": most}
    return Param(default, type="integer", title=title, description=description, **limits)


def _switch(title: str, description: str) -> Param:
    return Param(False, type="boolean", title=title, description=description)


def _caching(bandit: Bandit) -> Param:
    return Param(
        bandit.enable_caching,
        type="boolean",
        title="Use the cache",
        description="Skip pipeline steps whose code, inputs and parameters have not changed.",
    )
