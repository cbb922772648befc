"""How cost grows with rows, features and actions: training, solving and deciding; and what named features cost."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
from timing import best_seconds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rl_core.bandit.exploration import choose, draw_uniform
from rl_core.bandit.linucb import LinUCB, Statistics, accumulate
from rl_core.config import Agent, Bandit
from rl_core.features.encoder import Encoder
from rl_core.features.vectorise import Vectoriser
from rl_core.policy.artefact import Policy, write_artefact
from rl_core.problem_config import Problem
from rl_core.serving.decisions import Decider
from rl_core.serving.policies import Served
from rl_core.serving.requests import PredictRequest, parse_predict

DIMS, ACTIONS, ROWS = (8, 20, 64), (20, 100, 1000), (10_000, 100_000, 1_000_000)
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
FEATURES: dict[str, Any] = {
    "age": {"kind": "number", "min": 0, "max": 120},
    "basket": {"kind": "number", "min": 0, "max": 1000},
    "visits": {"kind": "number", "min": 0, "max": 100},
    "country": {"kind": "category", "values": ["de", "fr", "it", "es"]},
    "device": {"kind": "category", "values": ["phone", "tablet", "desktop"]},
    "campaign": {"kind": "hashed", "buckets": 8},
    "interests": {"kind": "set", "values": ["politics", "sport", "culture", "money"]},
    "member": "boolean",
    "visited": "time",
    "embedding": {"kind": "vector", "dim": 8},
}
SENT = {
    "age": 31,
    "basket": 80.5,
    "visits": 7,
    "country": "de",
    "device": "phone",
    "campaign": "spring",
    "interests": ["sport", "money"],
    "member": True,
    "visited": "2026-01-31T12:00:00Z",
    "embedding": [0.5, 0.1, -0.3, 0.0, 0.7, 0.2, -0.1, 0.4],
}


def statistics_of(rows: int, dim: int, actions: int) -> tuple[Statistics, Callable[[], object]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, dim)).astype(np.float32)
    chosen, rewards = rng.integers(0, actions, rows), rng.standard_normal(rows)
    return accumulate(x, chosen, rewards, actions), lambda: accumulate(x, chosen, rewards, actions)


def bandit_of(**problem: Any) -> Bandit:
    shape = {"action_set_version": "bench", "reward_min": 0, "reward_max": 1, "reward_default": 0}
    return Bandit(name="bench", prefix="bench", pipe_version="v1", problem=Problem(**shape, **problem))


def policy_of(problem: Problem, statistics: Statistics) -> Policy:
    with TemporaryDirectory() as folder:
        write_artefact(Path(folder), problem, Agent(agent_alpha=0.2, tikhonov_weight=0.01), statistics)
        return Policy.load(Path(folder), problem)


def deciding(bandit: Bandit, instance: dict[str, Any], statistics: Statistics, count: int = 20) -> tuple[float, float]:
    """Seconds of one decision: its features, scores, draw and choice; and of all between a request and its row."""
    problem = bandit.problem
    vectoriser = Vectoriser(problem.features) if problem.features else None
    body, decider = orjson.dumps({"instances": [instance]}), Decider(bandit, b"salt")
    policy = policy_of(problem, statistics)
    served = Served("v1", policy)

    def alone() -> None:
        for _ in range(count):
            if vectoriser is None:
                x = np.asarray([instance["observation"]], np.float32)
            else:
                x = vectoriser.rows([instance["features"]])
            choose(policy.scores(x)[0], None, 0.05, draw_uniform(b"salt", "0192f5a0-0000-7000-8000-000000000000"))

    def request() -> None:
        for _ in range(count):
            parsed = parse_predict(body, problem, 256, NOW, vectoriser)
            assert isinstance(parsed, PredictRequest)
            decider.decide(parsed, served, (), NOW)

    return best_seconds(alone, 100) / count, best_seconds(request, 100) / count


def print_shapes() -> None:
    print("| features × actions | train, M rows/s | solve, ms | decide, µs | a request, µs |\n|---|---|---|---|---|")
    for dim in DIMS:
        for actions in ACTIONS:
            statistics, train = statistics_of(100_000, dim, actions)
            solve = best_seconds(lambda found=statistics: LinUCB.of(found, 0.2, 0.01), 2)
            bandit = bandit_of(
                observation_dim=dim, observation_version="bench", actions=[f"action-{k}" for k in range(actions)]
            )
            observation = np.random.default_rng(1).standard_normal(dim).round(3).tolist()
            took = deciding(bandit, {"observation": observation}, statistics)
            print(f"| {dim} × {actions:,} | {0.1 / best_seconds(train, 7):.1f} | {solve * 1e3:.1f}", end="")
            print(f" | {took[0] * 1e6:.0f} | {took[1] * 1e6:.0f} |", flush=True)


def print_rows() -> None:
    print("\n| rows, of 20 features × 20 actions | train, s | M rows/s |\n|---|---|---|")
    for rows in ROWS:
        seconds = best_seconds(statistics_of(rows, 20, 20)[1], 7)
        print(f"| {rows:,} | {seconds:.3f} | {rows / seconds / 1e6:.1f} |", flush=True)


def print_named() -> None:
    bandit = bandit_of(features=FEATURES, actions=[f"action-{k}" for k in range(20)])
    encoder = Encoder.of(bandit.problem)
    vectoriser = Vectoriser(bandit.problem.features)
    statistics, _ = statistics_of(10_000, encoder.width, 20)
    took = deciding(bandit, {"features": SENT}, statistics)
    encode = best_seconds(lambda: [vectoriser.rows([SENT]) for _ in range(20)], 100) / 20
    print(f"\nten named features ({encoder.width} numbers) × 20 actions: encode {encode * 1e6:.0f} µs, ", end="")
    print(f"decide {took[0] * 1e6:.0f} µs, a request {took[1] * 1e6:.0f} µs")


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print_shapes()
    print_rows()
    print_named()


if __name__ == "__main__":
    main()
