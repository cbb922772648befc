"""MovieLens as a bandit: TF-Agents' numbers, but a reward belongs to the user it is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.config import Bandit, Settings
from rl_core.environment_config import MovieLens
from rl_core.errors import ConfigError, DataError
from rl_core.movielens.data import synthetic_path
from rl_core.movielens.environment import MovieLensEnvironment, load_environment, normals
from rl_core.movielens.synthetic import synthetic_ratings, write_synthetic
from rl_core.policy.saved_model import import_tf_agents


@pytest.fixture(scope="module")
def ratings() -> NDArray[np.float64]:
    users, items, stars, _ = synthetic_ratings()
    matrix = np.zeros((943, 1682))
    matrix[users - 1, items - 1] = stars
    return matrix


@pytest.fixture(scope="module")
def environment(ratings: NDArray[np.float64]) -> MovieLensEnvironment:
    return MovieLensEnvironment(ratings, rank_k=20, num_actions=20, noise_sd=1.0, seed=7)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    write_synthetic(synthetic_path(home))
    return Settings(home=home)


@pytest.mark.tf
@pytest.mark.parametrize(("rank_k", "num_actions"), [(20, 20), (5, 30)])
def test_equals_tf_agents_to_the_last_bit(
    ratings: NDArray[np.float64], tmp_path: Path, rank_k: int, num_actions: int
) -> None:
    import_tf_agents()
    from tf_agents.bandits.environments.movielens_py_environment import MovieLensPyEnvironment

    users, items = np.nonzero(ratings)
    lines = (f"{u + 1},{i + 1},{ratings[u, i]:.0f},0\n" for u, i in zip(users, items, strict=True))
    (tmp_path / "u.csv").write_text("".join(lines))
    theirs = MovieLensPyEnvironment(str(tmp_path / "u.csv"), rank_k=rank_k, num_movies=num_actions)
    ours = MovieLensEnvironment(ratings, rank_k, num_actions)
    assert np.array_equal(ours.observations, theirs._u_hat)
    assert np.array_equal(ours.expected, theirs._approx_ratings_matrix)


class TestFactors:
    def test_observations_times_item_factors_approximate_the_ratings(
        self, ratings: NDArray[np.float64], environment: MovieLensEnvironment
    ) -> None:
        kept = ratings[environment.user_ids - 1, :20]
        assert environment.expected == pytest.approx(kept, abs=1e-9)  # full rank: exact

    def test_users_who_rated_none_of_the_movies_are_dropped(
        self, ratings: NDArray[np.float64], environment: MovieLensEnvironment
    ) -> None:
        assert (environment.user_ids == np.flatnonzero(ratings[:, :20].any(axis=1)) + 1).all()

    def test_action_ids_name_the_items(self, environment: MovieLensEnvironment) -> None:
        assert environment.action_ids[:2] == ("movie-1", "movie-2")
        assert len(environment.action_ids) == 20

    def test_most_rated_takes_the_most_rated_lowest_id_first(self) -> None:
        ratings = np.array([[5.0, 0, 3, 1, 4], [0, 2, 3, 1, 4], [0, 0, 0, 0, 2.0]])  # counts 1 1 2 2 3
        assert MovieLensEnvironment(ratings, 2, 2, movies="most_rated").action_ids == ("movie-3", "movie-5")
        assert MovieLensEnvironment(ratings, 2, 4, movies="most_rated").action_ids[0] == "movie-1"

    def test_more_factors_than_movies_is_an_error(self, ratings: NDArray[np.float64]) -> None:
        with pytest.raises(ConfigError, match=r"rank_k=21 exceeds num_actions=20 .* set observation_dim to 20 or less"):
            MovieLensEnvironment(ratings, 21, 20)

    def test_more_actions_than_movies_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="num_actions=4 exceeds the 3 movies"):
            MovieLensEnvironment(np.ones((5, 3)), 2, 4)


class TestRewards:
    def test_without_noise_are_the_expected_ones(self, ratings: NDArray[np.float64]) -> None:
        quiet = MovieLensEnvironment(ratings, 20, 20)
        assert quiet.reward(3, 4, "event") == quiet.expected[3, 4]

    def test_depend_on_user_action_and_event_only(self, environment: MovieLensEnvironment) -> None:
        first = environment.reward(3, 4, "event")
        environment.rewards(np.arange(10), np.arange(10), [f"other-{i}" for i in range(10)])
        assert environment.reward(3, 4, "event") == first

    def test_of_many_rows_are_those_of_each_row(self, environment: MovieLensEnvironment) -> None:
        users, actions, events = np.array([1, 2, 1]), np.array([0, 19, 5]), ["a", "ö", "\ud800"]
        one_by_one = [environment.reward(int(u), int(a), e) for u, a, e in zip(users, actions, events, strict=True)]
        assert environment.rewards(users, actions, events).tolist() == one_by_one

    def test_can_be_recomputed_from_what_was_logged(self, environment: MovieLensEnvironment) -> None:
        rng = np.random.default_rng(0)
        users, actions = rng.integers(0, len(environment.user_ids), 500), rng.integers(0, 20, 500)
        events = [f"event-{i}" for i in range(500)]
        logged = environment.observations_f32[users]
        again = environment.rewards(environment.users_of(logged), actions, events)
        assert np.abs(again - environment.rewards(users, actions, events)).max() < 1e-9

    def test_an_observation_of_nobody_is_minus_1(self, environment: MovieLensEnvironment) -> None:
        rows = environment.observations_f32[:2].copy()
        rows[1, 0] = np.nextafter(rows[1, 0], np.float32(9))
        assert environment.users_of(rows).tolist() == [0, -1]


class TestForGeneratorAndSimulator:
    def test_users_arrive_as_they_always_did_in_parts_too(self, environment: MovieLensEnvironment) -> None:
        always = np.random.default_rng((3, 1)).integers(len(environment.user_ids), size=2500)
        rng = np.random.default_rng((3, 1))
        parts = [environment.observe(rng, n) for n in (1000, 1, 999, 500)]
        assert np.concatenate(parts).tolist() == always.tolist()
        assert np.array_equal(environment.shown(always), environment.observations_f32[always])

    def test_earn_by_the_actions_id_what_they_earn_by_its_index(self, environment: MovieLensEnvironment) -> None:
        users, actions, events = [1, 2, 1], [0, 19, 5], ["a", "b", "c"]
        ids = [environment.action_ids[action] for action in actions]
        by_index = environment.rewards(np.array(users), np.array(actions), events)
        assert environment.earned(users, ids, events).tolist() == by_index.tolist()
        with pytest.raises(ConfigError, match=r"action 'film-1' is none of the environment's; restart the server"):
            environment.earned([1], ["film-1"], ["a"])


class TestNoise:
    def test_is_standard_normal(self) -> None:
        noise = normals(7, (f"event-{i}" for i in range(50_000)))
        assert noise.mean() == pytest.approx(0, abs=4 / np.sqrt(50_000))
        assert noise.std() == pytest.approx(1, abs=4 / np.sqrt(100_000))
        assert (np.abs(noise) > 1.96).mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 50_000))

    def test_differs_by_seed_and_by_event(self) -> None:
        seen = [value for seed in (-1, 0, 1) for value in normals(seed, ["a", "b", ""])]
        assert len(set(seen)) == 9

    def test_never_changes_between_releases(self) -> None:
        assert normals(7, ["event-1"])[0] == pytest.approx(0.05568430538541407, rel=1e-12)


class TestDrift:
    def test_from_the_round_on_an_action_earns_what_the_next_one_earned(self, ratings: NDArray[np.float64]) -> None:
        drifting = MovieLensEnvironment(ratings, 20, 20, drift_from_round=2)
        assert np.array_equal(drifting.expected_at(1), drifting.expected)
        assert np.array_equal(drifting.expected_at(2)[:, :19], drifting.expected[:, 1:])
        assert np.array_equal(drifting.expected_at(2)[:, 19], drifting.expected[:, 0])

    def test_rewards_follow_it_row_by_row(self, ratings: NDArray[np.float64]) -> None:
        drifting = MovieLensEnvironment(ratings, 20, 20, drift_from_round=2)
        users, actions = np.array([5, 5, 5]), np.array([19, 19, 3])
        rewards = drifting.rewards(users, actions, ["a", "b", "c"], np.array([1, 2, 3]))
        assert rewards.tolist() == [drifting.expected[5, 19], drifting.expected[5, 0], drifting.expected[5, 4]]
        assert drifting.reward(5, 3, "a", round=2) == drifting.expected_at(2)[5, 3]


class TestLoadEnvironment:
    def test_the_shipped_bandit_fits_the_data(self, movielens: Bandit, offline: Settings) -> None:
        environment, data = load_environment(movielens, offline)
        assert data == "synthetic"
        assert environment.action_ids == movielens.problem.actions
        assert (environment.noise_sd, environment.seed) == (1.0, 7)

    def test_other_actions_are_an_error_that_gives_the_list(self, movielens: Bandit, offline: Settings) -> None:
        other = movielens.model_copy(update={"environment": MovieLens(movies="most_rated")})
        with pytest.raises(ConfigError, match=r"set problem\.actions to \[movie-\d+, movie-\d+"):
            load_environment(other, offline)

    def test_a_bandit_without_environment_is_an_error(self, movielens: Bandit, offline: Settings) -> None:
        with pytest.raises(ConfigError, match="has no environment"):
            load_environment(movielens.model_copy(update={"environment": None}), offline)

    def test_a_given_file_of_another_size_works(self, movielens: Bandit, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        lines = [f"{user}\t{item}\t{rng.integers(1, 6)}\t1\n" for user in range(1, 51) for item in range(1, 26)]
        (tmp_path / "u.data").write_text("".join(lines))
        environment, data = load_environment(movielens, Settings(movielens_dir=tmp_path))
        assert (data, environment.expected.shape) == ("file", (50, 20))

    def test_a_broken_file_names_its_line(self, movielens: Bandit, tmp_path: Path) -> None:
        (tmp_path / "u.data").write_text("1\t1\t5\t1\n1\t2\n")
        with pytest.raises(DataError, match=r"u\.data: line 2: expected 4 fields"):
            load_environment(movielens, Settings(movielens_dir=tmp_path))
