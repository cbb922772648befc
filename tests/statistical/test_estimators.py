"""Off-policy estimators recover a value that is known, and their intervals cover it as often as they say.

The behaviour policy is an exploring one, the evaluation policy another; the true value is that of the environment's
noise-free rewards. 300 logs of 1,500 rows each; tolerances are 4 standard deviations of what is averaged.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.bandit.exploration import probabilities
from rl_core.bandit.metrics import expected_reward
from rl_core.bandit.ope import Estimate, LoggedRows, dm, dr, ips, paired_difference, snips
from rl_core.movielens.environment import MovieLensEnvironment
from rl_core.policy.judgement import MIN_ROWS

LOGS, ROWS = 300, 1500
Estimates = dict[str, list[Estimate]]


@pytest.fixture(scope="module")
def policies(environment: MovieLensEnvironment) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Behaviour, evaluation and champion probabilities [U, K]: noisy rankings with floors."""
    rng = np.random.default_rng(0)
    noisy = [environment.expected + rng.normal(0, sd, environment.expected.shape) for sd in (3.0, 1.0, 1.5)]
    return probabilities(noisy[0], None, 0.5), probabilities(noisy[1], None, 0.1), probabilities(noisy[2], None, 0.1)


@pytest.fixture(scope="module")
def estimates(environment: MovieLensEnvironment, policies: tuple[NDArray[np.float64], ...]) -> Estimates:
    behaviour, evaluation, champion = policies
    good = environment.expected + 0.3  # models: one off by a constant, one that knows nothing
    poor = np.zeros_like(environment.expected)
    found: Estimates = {name: [] for name in ("IPS", "SNIPS", "DM good", "DM poor", "DR good", "DR poor", "difference")}
    for seed in range(LOGS):
        rng = np.random.default_rng(seed)
        users = rng.integers(0, len(behaviour), ROWS)
        actions = (behaviour[users].cumsum(axis=1) > rng.random(ROWS)[:, None]).argmax(axis=1)
        rewards = environment.expected[users, actions] + rng.normal(size=ROWS)
        rows = LoggedRows(actions, rewards, behaviour[users, actions])
        found["IPS"].append(ips(rows, evaluation[users]))
        found["SNIPS"].append(snips(rows, evaluation[users]))
        for name, means in (("good", good), ("poor", poor)):
            found[f"DM {name}"].append(dm(rows, evaluation[users], means[users]))
            found[f"DR {name}"].append(dr(rows, evaluation[users], means[users]))
        found["difference"].append(
            paired_difference(dr(rows, evaluation[users], good[users]), dr(rows, champion[users], good[users]))
        )
    return found


@pytest.fixture(scope="module")
def truth(environment: MovieLensEnvironment, policies: tuple[NDArray[np.float64], ...]) -> float:
    return expected_reward(environment.expected, policies[1])


def values(estimates: list[Estimate]) -> NDArray[np.float64]:
    return np.array([estimate.value for estimate in estimates])


@pytest.mark.parametrize("name", ["IPS", "SNIPS", "DR good", "DR poor"])
def test_the_value_is_recovered(estimates: Estimates, truth: float, name: str) -> None:
    found = values(estimates[name])
    assert found.mean() == pytest.approx(truth, abs=4 * found.std() / np.sqrt(LOGS))


@pytest.mark.parametrize("name", ["IPS", "SNIPS", "DR good", "DR poor"])
def test_standard_errors_are_the_spread_of_the_estimates(estimates: Estimates, name: str) -> None:
    stated = np.mean([estimate.standard_error for estimate in estimates[name]])
    spread = values(estimates[name]).std(ddof=1)
    assert stated == pytest.approx(spread, rel=4 / np.sqrt(2 * LOGS))


@pytest.mark.parametrize("name", ["IPS", "SNIPS", "DR good", "DR poor"])
def test_intervals_cover_as_often_as_they_say(estimates: Estimates, truth: float, name: str) -> None:
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates[name]])
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / LOGS))


def test_the_direct_method_is_as_wrong_as_its_model(estimates: Estimates, truth: float) -> None:
    assert values(estimates["DM good"]).mean() - truth == pytest.approx(0.3, abs=0.02)
    assert values(estimates["DM poor"]).mean() == 0.0


def test_a_good_model_makes_dr_tighter_than_ips(estimates: Estimates) -> None:
    assert values(estimates["DR good"]).std() < 0.6 * values(estimates["IPS"]).std()


def test_the_paired_difference_is_recovered_and_covered(
    environment: MovieLensEnvironment, policies: tuple[NDArray[np.float64], ...], estimates: Estimates, truth: float
) -> None:
    difference = truth - expected_reward(environment.expected, policies[2])
    found = values(estimates["difference"])
    covered = np.mean([estimate.low <= difference <= estimate.high for estimate in estimates["difference"]])
    assert found.mean() == pytest.approx(difference, abs=4 * found.std() / np.sqrt(LOGS))
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / LOGS))


@pytest.mark.parametrize("rows", [2, 3, MIN_ROWS, 30, 200])
@pytest.mark.parametrize("rare", [False, True], ids=["numbers", "clicks"])
def test_equally_good_policies_seldom_seem_worse_however_few_the_rows(rows: int, rare: bool) -> None:
    """2.5 % may: the whole 95 % interval of their difference lies below 0 by chance."""
    rng, actions, trials = np.random.default_rng(1), 4, 400
    worse = 0
    for _ in range(trials):
        means = np.full((rows, actions), 0.05) if rare else rng.standard_normal((rows, actions))
        each, taken = np.arange(rows), rng.integers(0, actions, rows)
        rewards = (rng.random(rows) < 0.05).astype(float) if rare else means[each, taken] + rng.standard_normal(rows)
        logged = LoggedRows(taken, rewards, np.full(rows, 1 / actions))
        one, other = (probabilities(rng.standard_normal((rows, actions)), None, 0.05) for _ in "ab")
        worse += paired_difference(dr(logged, one, means), dr(logged, other, means)).high < 0
    assert worse / trials < 0.025 + 4 * np.sqrt(0.025 * 0.975 / trials)
