"""The reward belongs to the user who was served.

A loop that asks a simulator's hidden current user for the reward trains on noise, and everything else still looks
right: most users rated few movies, so a stranger's reward is equal more often than not. This test holds the rule.
"""

from __future__ import annotations

import numpy as np
import pytest

from rl_core.movielens.environment import MovieLensEnvironment

ROWS = 5_000


@pytest.fixture(scope="module")
def log(environment: MovieLensEnvironment) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    users, actions = rng.integers(0, len(environment.user_ids), ROWS), rng.integers(0, 20, ROWS)
    return {"users": users, "actions": actions, "events": np.array([f"event-{i}" for i in range(ROWS)])}


def test_every_logged_reward_is_that_of_the_logged_user(
    environment: MovieLensEnvironment, log: dict[str, np.ndarray]
) -> None:
    logged = [
        environment.reward(user, action, event)
        for user, action, event in zip(log["users"], log["actions"], log["events"], strict=True)
    ]
    served = environment.users_of(environment.observations_f32[log["users"]])
    again = environment.rewards(served, log["actions"], log["events"])
    assert (np.abs(again - np.array(logged)) < 1e-9).mean() == 1.0


def test_a_strangers_reward_would_be_noticed(environment: MovieLensEnvironment, log: dict[str, np.ndarray]) -> None:
    own = environment.rewards(log["users"], log["actions"], log["events"])
    strangers = environment.rewards(np.roll(log["users"], 1), log["actions"], log["events"])
    agreement = (np.abs(own - strangers) < 1e-9).mean()
    assert 0.4 < agreement < 0.8  # high enough to fool an average, far from 1.0
