"""Computes the demo's report from the event store and the registry, after the fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_core.backends.contracts.registry import Attempt, PolicyRegistry
from rl_core.backends.contracts.store import EventStore
from rl_core.bandit.exploration import probabilities
from rl_core.bandit.metrics import pct_of_gap
from rl_core.config import Bandit
from rl_core.movielens.environment import MovieLensEnvironment
from rl_core.policy.artefact import Policy


@dataclass(frozen=True)
class Round:
    """One training and what its policy did; `pct_of_gap_*` are noise-free, over all users."""

    policy_version: str | None
    trigger: str
    window: tuple[int, int]
    trained_interactions: int
    decisions_served: int
    mean_reward: float | None
    pct_of_gap_greedy: float
    pct_of_gap_served: float


@dataclass(frozen=True)
class Log:
    """What became of the acknowledged decisions and rewards."""

    decisions_acknowledged: int
    decisions_in_store: int
    decisions_lost: int
    duplicates: int
    rewards_in_store: int
    reward_matches_user: float


def build_report(
    bandit: Bandit,
    store: EventStore,
    registry: PolicyRegistry,
    environment: MovieLensEnvironment,
    data: str,
    wall_s: dict[str, Any],
    acknowledged: Sequence[str],
) -> dict[str, Any]:
    """Compute the content of report.json."""
    attempts = registry.attempts()
    rounds = [_round(bandit, store, registry, environment, a) for a in attempts if a.verdict == "promoted"]
    rejected = [{"window": a.windows[-1], "reason": a.reason} for a in attempts if a.verdict == "rejected"]
    return {
        "data": data,
        "wall_s": wall_s,
        "rounds": [asdict(one) for one in rounds],
        "rejected": rejected,
        "log": asdict(_log(store, environment, acknowledged)),
    }


def _round(
    bandit: Bandit, store: EventStore, registry: PolicyRegistry, environment: MovieLensEnvironment, attempt: Attempt
) -> Round:
    version = str(attempt.version)
    policy = Policy.load(registry.path(version), bandit.problem)
    users = environment.observations_f32
    greedy = np.eye(bandit.problem.num_actions)[policy.means(users).argmax(axis=1)]
    served = probabilities(policy.scores(users), None, bandit.serving.epsilon)
    lived = store.query(
        f"SELECT count(*) AS n, avg(reward) AS mean FROM interactions WHERE served AND policy_version = '{version}'"  # noqa: S608
    ).to_pylist()[0]
    windows = [(ref.seq_low, ref.seq_high) for ref in registry.lineage(version).windows]
    return Round(
        policy_version=version,
        trigger=attempt.trigger,
        window=attempt.windows[-1],
        trained_interactions=sum(high - low for low, high in windows),
        decisions_served=lived["n"],
        mean_reward=lived["mean"],
        pct_of_gap_greedy=round(pct_of_gap(environment.expected, greedy), 2),
        pct_of_gap_served=round(pct_of_gap(environment.expected, served), 2),
    )


def _log(store: EventStore, environment: MovieLensEnvironment, acknowledged: Sequence[str]) -> Log:
    stored = store.query("SELECT event_id FROM decisions WHERE source = 'simulator'")["event_id"].to_pylist()
    counts = store.query(
        """
        SELECT (SELECT count(*) - count(DISTINCT event_id) FROM decisions)
             + (SELECT count(*) - count(DISTINCT event_id) FROM interactions) AS duplicates,
               (SELECT count(*) FROM interactions WHERE closed_by = 'reward' AND source = 'simulator') AS rewards
        """
    ).to_pylist()[0]
    return Log(
        decisions_acknowledged=len(acknowledged),
        decisions_in_store=len(stored),
        decisions_lost=len(set(acknowledged) - set(stored)),
        duplicates=counts["duplicates"],
        rewards_in_store=counts["rewards"],
        reward_matches_user=reward_matches_user(store, environment),
    )


def reward_matches_user(store: EventStore, environment: MovieLensEnvironment) -> float:
    """Return the share of rewarded interactions whose reward is the one this user gives this action in this event.

    The user is found by the logged observation, the reward is computed anew from the environment.
    """
    rows = store.query(
        "SELECT event_id, observation, action_id, reward FROM interactions WHERE closed_by = 'reward' ORDER BY seq"
    )
    if rows.num_rows == 0:
        return 0.0
    observations = np.array(rows["observation"].to_pylist(), dtype=np.float32)
    users = environment.users_of(observations)
    expected = environment.earned(users.clip(0), rows["action_id"].to_pylist(), rows["event_id"].to_pylist())
    agrees = (users >= 0) & (np.abs(expected - rows["reward"].to_numpy()) < 1e-6)
    return float(agrees.mean())


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the learning curve. Not with pyplot, whose settings are those of whoever runs this in a notebook."""
    from matplotlib.figure import Figure

    rounds = report["rounds"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    trained = [one["trained_interactions"] for one in rounds]
    axes.plot(trained, [one["pct_of_gap_greedy"] for one in rounds], "o-", label="greedy choice")
    axes.plot(trained, [one["pct_of_gap_served"] for one in rounds], "s--", label="as served, with its floor")
    axes.axhline(100, color="0.7", linewidth=1)
    axes.set(
        xlabel="interactions trained on",
        ylabel="% of the gap, uniform random = 0, oracle = 100",
        title=f"{report['data']}: each policy, noise-free, over all users",
        ylim=(min(0, *(one["pct_of_gap_served"] for one in rounds)), 103),
    )
    for one, x in zip(rounds, trained, strict=True):
        axes.annotate(
            one["policy_version"],
            (x, one["pct_of_gap_served"]),
            fontsize=7,
            xytext=(0, -14),
            ha="center",
            textcoords="offset points",
        )
    axes.margins(x=0.12)
    axes.legend(loc="lower right")
    figure.savefig(path)
