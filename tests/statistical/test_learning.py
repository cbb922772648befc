"""The loop learns: policies trained on what their predecessors served close the gap to the oracle.

200 uniform rounds on noisy rewards, then three times 3,000 decisions served with α 0.2, λ 0.01, ε 0.05, as in the demo.
Twelve worlds that differ in users, draws and noise; the statements are about their medians.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.bandit.exploration import probabilities
from rl_core.bandit.linucb import LinUCB, Statistics, accumulate
from rl_core.bandit.metrics import pct_of_gap
from rl_core.movielens.environment import MovieLensEnvironment

WORLDS = 12
EPSILON = 0.05


def serve(environment: MovieLensEnvironment, policy: LinUCB | None, count: int, name: str, seed: int) -> Statistics:
    """The statistics of `count` served decisions; without a policy, uniform ones."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, len(environment.user_ids), count)
    x = environment.observations_f32[users]
    p = probabilities(policy.scores(x), None, EPSILON) if policy else np.full((count, 20), 1 / 20)
    actions = (p.cumsum(axis=1) > rng.random(count)[:, None]).argmax(axis=1)
    rewards = environment.rewards(users, actions, [f"{name}-{seed}-{i}" for i in range(count)])
    return accumulate(x, actions, rewards, 20)


def quality(environment: MovieLensEnvironment, policy: LinUCB, epsilon: float) -> float:
    return pct_of_gap(environment.expected, probabilities(policy.scores(environment.observations_f32), None, epsilon))


@pytest.fixture(scope="module")
def curves(environment: MovieLensEnvironment) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percent of the gap [worlds, rounds], greedy and served."""
    greedy, served = np.zeros((WORLDS, 4)), np.zeros((WORLDS, 4))
    for world in range(WORLDS):
        statistics = serve(environment, None, 200, "startup", world)
        for round in range(4):
            policy = LinUCB.of(statistics, agent_alpha=0.2, tikhonov_weight=0.01)
            greedy[world, round] = quality(environment, policy, 0.0)
            served[world, round] = quality(environment, policy, EPSILON)
            if round < 3:
                statistics = statistics + serve(environment, policy, 3000, f"round-{round}", world)
    return greedy, served


@pytest.mark.slow
def test_the_first_policy_beats_uniform_but_has_much_to_learn(curves: tuple[NDArray[np.float64], ...]) -> None:
    assert curves[0][:, 0].min() > 20
    assert np.median(curves[0][:, 0]) < 85


def test_every_retrain_serves_better_than_the_policy_before(curves: tuple[NDArray[np.float64], ...]) -> None:
    assert (np.diff(np.median(curves[1], axis=0)) > 0).all()


def test_the_last_policy_is_close_to_the_oracle(curves: tuple[NDArray[np.float64], ...]) -> None:
    assert np.median(curves[0][:, 3]) >= 98
    assert np.median(curves[1][:, 3]) >= 90


def test_a_second_pass_over_the_same_rows_makes_the_policy_worse(environment: MovieLensEnvironment) -> None:
    """Counting every row 50 times divides λ by 50: the noise of 200 rows is believed."""
    starts = [serve(environment, None, 200, "startup", seed) for seed in range(40)]
    once, often = (
        np.array([quality(environment, LinUCB.of(start.scaled(epochs), 0.0, 1.0), 0.0) for start in starts])
        for epochs in (1, 50)
    )
    difference = once - often
    assert difference.mean() > 4 * difference.std() / np.sqrt(len(starts))
