"""MovieLens as a bandit: a user's factors are the observation, movies are the actions, approximate ratings the reward.

For equal parameters the numbers are those of TF-Agents' `MovieLensPyEnvironment`: keep `num_actions` columns of the
ratings matrix, drop users who rated none of them, factorise R ≈ (U √S)(√S Vᵀ) at rank `rank_k`; observations are U √S.
Unlike there, a reward belongs to a given user: nothing depends on whom the environment showed last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_core.config import Bandit, Settings
from rl_core.environment_config import MovieLens
from rl_core.errors import ConfigError
from rl_core.movielens.data import Data, find_ratings, load_ratings

Array = NDArray[np.float64]


class MovieLensEnvironment:
    """A world of U users, K actions (movies) and d = rank_k observed numbers; generator, simulator and report use it.

    Attributes:
        user_ids: [U] ids in the ratings file, ascending; a *user index* is a position in this array.
        observations: [U, d] float64; observations_f32 is what travels and is logged.
        action_ids: K strings "movie-<item id>", by ascending item id.
        expected: [U, K] float64, noise-free rewards before any drift.
    """

    def __init__(
        self,
        ratings: Array,
        rank_k: int,
        num_actions: int,
        movies: Literal["first", "most_rated"] = "first",
        noise_sd: float = 0.0,
        drift_from_round: int | None = None,
        seed: int = 0,
    ) -> None:
        """Factorise `ratings` [users, items], 0 where unrated.

        Raises:
            ConfigError: the parameters ask for more than the ratings hold.
        """
        items = _choose_items(ratings, num_actions, movies)
        kept = ratings[:, items]
        rated_any = np.flatnonzero(kept.sum(axis=1) > 0)
        if rank_k > min(num_actions, len(rated_any)):
            raise ConfigError(
                f"rank_k={rank_k} exceeds num_actions={num_actions} or the {len(rated_any)} users who rated them; "
                f"set observation_dim to {min(num_actions, len(rated_any))} or less"
            )
        u, s, vh = np.linalg.svd(kept[rated_any], full_matrices=False)
        root = np.sqrt(s[:rank_k])
        self.user_ids = rated_any + 1
        self.observations: Array = u[:, :rank_k] * root
        self.observations_f32 = self.observations.astype(np.float32)
        self.action_ids = tuple(f"movie-{item + 1}" for item in items)
        # TF-Agents' order of operations, so that results are equal to the last bit
        self.expected: Array = np.matmul(self.observations, np.transpose(np.transpose(vh[:rank_k, :]) * root))
        self.noise_sd = noise_sd
        self.drift_from_round = drift_from_round
        self.seed = seed
        self._action_at = {action: index for index, action in enumerate(self.action_ids)}
        self._user_at = {row.tobytes(): index for index, row in reversed(list(enumerate(self.observations_f32)))}

    def expected_at(self, round: int) -> Array:
        """Return the noise-free rewards [U, K] of a round: from `drift_from_round` on, action a earns what a+1 did."""
        drifted = self.drift_from_round is not None and round >= self.drift_from_round
        return np.roll(self.expected, -1, axis=1) if drifted else self.expected

    def reward(self, user_index: int, action: int, event_id: str, round: int = 0) -> float:
        """Draw the reward of this user for this action, in stars; the noise depends on seed and event id alone."""
        return float(self.rewards(np.array([user_index]), np.array([action]), [event_id], round)[0])

    def rewards(
        self,
        user_indices: NDArray[np.integer],
        actions: NDArray[np.integer],
        event_ids: Iterable[str],
        rounds: ArrayLike = 0,
    ) -> Array:
        """Draw the rewards [n] of n rows as `reward` does; `rounds` is one number or [n]."""
        columns = actions
        if self.drift_from_round is not None:
            columns = (actions + (np.asarray(rounds) >= self.drift_from_round)) % len(self.action_ids)
        rewards: Array = self.expected[user_indices, columns]
        return rewards + self.noise_sd * normals(self.seed, event_ids) if self.noise_sd else rewards

    def identity(self) -> bytes:
        """Return the expected rewards, rounded, since a factorisation's last bits vary between machines."""
        return (np.round(self.expected, 6) + 0.0).tobytes()  # no -0.0

    def observe(self, rng: np.random.Generator, n: int) -> NDArray[np.int64]:
        """Draw the indices [n] of the users who arrive."""
        return rng.integers(0, len(self.user_ids), n)

    def shown(self, users: ArrayLike) -> NDArray[np.float32]:
        """Return their observations [n, d], as they travel and are logged."""
        shown: NDArray[np.float32] = self.observations_f32[np.asarray(users)]
        return shown

    def earned(self, users: ArrayLike, action_ids: Sequence[str], event_ids: Sequence[str], round: int = 0) -> Array:
        """Return what `rewards` does, for actions by their ids. Raises ConfigError for an unknown one."""
        try:
            actions = np.asarray([self._action_at[action] for action in action_ids])
        except KeyError as error:
            raise ConfigError(
                f"action {error} is none of the environment's; restart the server with the problem.actions of this YAML"
            ) from error
        return self.rewards(np.asarray(users), actions, event_ids, round)

    def users_of(self, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        """Find the user index of each observation [n, d] as logged, -1 where no user has it.

        Users with equal ratings have equal observations; the lowest index stands for them, and their expected rewards
        agree within 1e-9.
        """
        rows = np.ascontiguousarray(observations, dtype=np.float32)
        return np.array([self._user_at.get(row.tobytes(), -1) for row in rows], dtype=np.int64)


def load_environment(bandit: Bandit, settings: Settings) -> tuple[MovieLensEnvironment, Data]:
    """Build the bandit's environment; return it and which data it stands on.

    Raises:
        ConfigError: the bandit has no such environment, asks for more than the data holds, or lists other actions.
        DataError: the ratings file is missing or malformed.
    """
    if bandit.environment is None:
        raise ConfigError(f"bandit {bandit.name} has no environment to simulate; add `environment:` to its YAML")
    if not isinstance(bandit.environment, MovieLens):
        raise ConfigError(f"bandit {bandit.name} has environment.kind={bandit.environment.kind}; this needs movielens")
    path, data = find_ratings(settings)
    given, problem = bandit.environment, bandit.problem
    environment = MovieLensEnvironment(
        load_ratings(path),
        rank_k=problem.observation_dim,
        num_actions=problem.num_actions,
        movies=given.movies,
        noise_sd=given.noise_sd,
        drift_from_round=given.drift_from_round,
        seed=given.seed,
    )
    if environment.action_ids != problem.actions:
        raise ConfigError(
            f"bandit {bandit.name} lists other actions than {path} gives for movies={given.movies}; "
            f"set problem.actions to [{', '.join(environment.action_ids)}]"
        )
    return environment, data


def normals(seed: int, event_ids: Iterable[str]) -> Array:
    """Draw a standard normal per event id, [n], from (seed, event id) alone: a logged reward can be recomputed."""
    keyed = hashlib.blake2b(digest_size=16, key=seed.to_bytes(16, "little", signed=True), person=b"noise")
    digests = bytearray()
    for event_id in event_ids:
        digest = keyed.copy()
        digest.update(event_id.encode("utf-8", "surrogatepass"))
        digests += digest.digest()
    bits = np.frombuffer(bytes(digests), dtype="<u8").reshape(-1, 2) >> np.uint64(11)
    uniform = (bits + 0.5) * 2.0**-53  # never 0, so the logarithm is finite
    normal: Array = np.sqrt(-2.0 * np.log(uniform[:, 0])) * np.cos(2.0 * np.pi * uniform[:, 1])  # Box and Muller (1958)
    return normal


def _choose_items(ratings: Array, num_actions: int, movies: Literal["first", "most_rated"]) -> NDArray[np.int64]:
    """Item indices, ascending. Of equally often rated movies the lowest id is taken."""
    if num_actions > ratings.shape[1]:
        raise ConfigError(f"num_actions={num_actions} exceeds the {ratings.shape[1]} movies of the ratings; list fewer")
    if movies == "first":
        return np.arange(num_actions)
    counts = np.count_nonzero(ratings, axis=0)
    return np.sort(np.argsort(-counts, kind="stable")[:num_actions])
