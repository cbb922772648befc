"""The check of the traffic split: silent over honest logs, and heard where one side loses rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from rl_core.backends import open_backend
from rl_core.bandit.exploration import choose, draw_uniform
from rl_core.bandit.sample_ratio import MIN_EXPECTED, THRESHOLD, Split
from rl_core.config import Bandit, Settings
from rl_core.monitoring.log_figures import SPLIT_ROWS, local_figures
from rl_core.schema import INTERACTION_SCHEMA

LOGS = 200_000


def splits(explored: NDArray[Any], rows: dict[float, int]) -> list[Split]:
    """Of logs that explored so often; `rows`: how many decisions explore with which probability."""
    expected = sum(q * n for q, n in rows.items())
    variance = sum(q * (1 - q) * n for q, n in rows.items())
    return [Split(int(count), expected, variance) for count in explored]


@pytest.mark.parametrize("rows", [{0.0475: 2200}, {0.0475: 10_000, 0.025: 5_000, 0.2: 1_000}, {0.3: 100_000}], ids=str)
def test_false_alarms_over_honest_logs_are_as_rare_as_the_threshold_says(rows: dict[float, int]) -> None:
    rng = np.random.default_rng(11)
    explored = sum(rng.binomial(n, q, LOGS) for q, n in rows.items())
    heard = sum(split.mismatch for split in splits(np.asarray(explored), rows))
    sd = (LOGS * THRESHOLD) ** 0.5
    assert heard <= 1.5 * LOGS * THRESHOLD + 3 * sd, "the tail of few counts is a little heavier than the normal one"
    assert heard >= 0.7 * LOGS * THRESHOLD - 3 * sd


def test_the_loss_of_a_tenth_of_one_side_is_found_in_logs_of_the_length_that_is_looked_at() -> None:
    rng, q = np.random.default_rng(12), 0.05 * (1 - 1 / 20)
    left = rng.binomial(rng.binomial(SPLIT_ROWS, q, LOGS), 0.9)
    rows = SPLIT_ROWS - int(0.1 * q * SPLIT_ROWS)
    power = np.mean([split.mismatch for split in splits(left, {q: rows})])
    assert power > 0.999


def test_too_few_rows_tell_nothing() -> None:
    few = Split(0, MIN_EXPECTED - 0.1, 95.0)
    assert (few.ratio, few.p, few.mismatch) == (None, None, False)


def test_the_order_of_magnitude_of_p() -> None:
    """The 44,000 against 45,000 of an even split: chi-square is 11.236."""
    assert Split(44_000, 44_500.0, 22_250.0).p == pytest.approx(0.000802, abs=1e-6)
    assert Split(44_500, 44_500.0, 22_250.0).p == 1.0


@pytest.fixture(scope="module")
def drawn() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(13)
    scores, counts = rng.standard_normal((64, 20)), rng.choice([2, 5, 20], 100_000)
    sets = {count: list(range(count)) for count in (2, 5, 20)}
    propensity = np.empty(len(counts))
    for n, count in enumerate(counts):
        propensity[n] = choose(scores[n % 64], sets[count], 0.05, draw_uniform(b"salt", f"event-{n}"))[1]
    return {"propensity": propensity, "explores": propensity < 0.5}


class TestALogAsTheServerWritesIt:
    """With the server's own choice: 100,000 decisions, ε 0.05, among 2, 5 or 20 eligible actions."""

    def split(self, bandit: Bandit, settings: Settings, propensity: NDArray[Any]) -> Split:
        """As it is told of a log with these rows."""
        n, now = len(propensity), datetime.now(UTC)
        columns = {field.name: pa.nulls(n, field.type) for field in INTERACTION_SCHEMA}
        columns |= dict.fromkeys(("decided_at", "received_at", "closed_at"), pa.repeat(pa.scalar(now), n))
        texts = ("event_id", "policy_version", "observation_version", "action_set_version", "action_id", "source")
        columns |= dict.fromkeys(texts, pa.repeat("x", n)) | {"producer": pa.repeat("bus-1", n)}
        columns["schema_version"] = pa.repeat(pa.scalar(1, pa.int32()), n)
        columns |= {
            "observation": pa.array([[]] * n, pa.list_(pa.float32())),
            "propensity": pa.array(propensity),
            "epsilon": pa.repeat(0.05, n),
            "reward": pa.repeat(0.0, n),
            "served": pa.repeat(True, n),
            "closed_by": pa.repeat("timeout", n),
        }
        columns |= dict.fromkeys(("seq", "offset"), pa.array(np.arange(1, n + 1)))
        store = open_backend(bandit, settings).store()
        store.append_interactions(pa.table(columns, INTERACTION_SCHEMA))
        return local_figures(bandit, store, now).split

    def test_is_left_alone_when_it_is_whole(
        self, movielens: Bandit, settings: Settings, drawn: dict[str, NDArray[Any]]
    ) -> None:
        split = self.split(movielens, settings, drawn["propensity"])
        assert split.explored == drawn["explores"].sum()
        assert not split.mismatch
        assert split.ratio == pytest.approx(1.0, abs=4 * split.variance**0.5 / split.expected)

    @pytest.mark.parametrize(("explores", "said"), [(True, 0.9), (False, 1.1)], ids=["explored", "best"])
    def test_is_heard_when_a_tenth_of_one_side_was_lost(
        self, movielens: Bandit, settings: Settings, drawn: dict[str, NDArray[Any]], explores: bool, said: float
    ) -> None:
        lost = (drawn["explores"] == explores) & (np.random.default_rng(14).random(len(drawn["explores"])) < 0.1)
        split = self.split(movielens, settings, drawn["propensity"][~lost])
        assert split.mismatch
        assert split.ratio == pytest.approx(said, abs=0.05)

    def test_is_heard_when_epsilon_was_another_than_is_logged(
        self, movielens: Bandit, settings: Settings, drawn: dict[str, NDArray[Any]]
    ) -> None:
        rng = np.random.default_rng(15)
        logged = np.where(rng.random(100_000) < 0.06 * 0.95, 0.05 / 20, 1 - 0.05 + 0.05 / 20)
        assert self.split(movielens, settings, logged).mismatch
