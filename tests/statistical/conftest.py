"""One synthetic world for all statistical tests; every tolerance below is stated in standard deviations."""

from __future__ import annotations

import numpy as np
import pytest

from rl_core.movielens.environment import MovieLensEnvironment
from rl_core.movielens.synthetic import synthetic_ratings


@pytest.fixture(scope="session")
def environment() -> MovieLensEnvironment:
    """875 users, 20 movies, noise of sd 1."""
    users, items, stars, _ = synthetic_ratings()
    matrix = np.zeros((943, 1682))
    matrix[users - 1, items - 1] = stars
    return MovieLensEnvironment(matrix, rank_k=20, num_actions=20, noise_sd=1.0, seed=7)
