"""Synthetic ratings in the shape of MovieLens 100K, for machines that can't reach GroupLens.

943 users, 1,682 items, 100,000 ratings; every user rated at least 20; few items are rated often; taste follows latent
factors, and people tend to rate what they like. The numbers are this file's own: no rating of MovieLens is in them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rl_core.files import write_atomically

USERS, ITEMS, RATINGS, LEAST = 943, 1682, 100_000, 20
_FACTORS = 8


def write_synthetic(path: Path, seed: int = 100) -> None:
    """Write the ratings as u.data would hold them; the same seed gives the same file."""
    users, items, stars, times = synthetic_ratings(seed)
    lines = zip(users.tolist(), items.tolist(), stars.tolist(), times.tolist(), strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in lines).encode())


def synthetic_ratings(seed: int = 100) -> tuple[NDArray[np.int64], ...]:
    """Draw user ids, item ids, ratings 1..5 and timestamps, [100000] each, in random order, no (user, item) twice."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(USERS, _FACTORS)) @ rng.normal(size=(_FACTORS, ITEMS)) / np.sqrt(_FACTORS)
    rated = _who_rates_what(rng, taste)
    users, items = np.nonzero(rated)
    level = 3.4 + rng.normal(0, 0.4, USERS)[users] + rng.normal(0, 0.55, ITEMS)[items]
    stars = np.clip(np.rint(level + 0.6 * taste[users, items] + rng.normal(0, 0.8, RATINGS)), 1, 5).astype(np.int64)
    times = 874_724_710 + rng.integers(0, 18_561_600, RATINGS)  # seven months
    order = rng.permutation(RATINGS)
    return users[order] + 1, items[order] + 1, stars[order], times[order]


def _who_rates_what(rng: np.random.Generator, taste: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A mask [users, items] with RATINGS true cells: each user's top cells by popularity, taste and chance."""
    popularity = rng.normal(0, 1.2, ITEMS) - 4.0 * np.arange(ITEMS) / ITEMS
    keenness = popularity + 0.5 * taste + rng.gumbel(size=taste.shape)
    rank = np.argsort(np.argsort(-keenness, axis=1), axis=1)
    mask: NDArray[np.bool_] = rank < _ratings_per_user(rng)[:, None]
    return mask


def _ratings_per_user(rng: np.random.Generator) -> NDArray[np.int64]:
    """[users] counts, at least LEAST, log-normal above it, with sum RATINGS exactly."""
    extra = np.clip(rng.lognormal(0.0, 1.35, USERS), 0.0, 12.0)
    share = np.cumsum(extra) / extra.sum() * (RATINGS - LEAST * USERS)
    counts: NDArray[np.int64] = LEAST + np.diff(np.rint(share).astype(np.int64), prepend=0)
    return counts
