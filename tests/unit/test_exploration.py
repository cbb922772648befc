"""The exploration floor: argmax 1 - ε + ε/K, every other eligible action ε/K, exactly."""

from __future__ import annotations

import numpy as np
import pytest

from rl_core.bandit.exploration import choose, choose_all, draw_uniform, draws_uniform, probabilities
from rl_core.errors import SchemaError

SCORES = np.array([0.1, 0.9, 0.3, 0.9])


class TestChooseAll:
    @pytest.mark.parametrize("rows", [1, 7, 8, 300])
    @pytest.mark.parametrize("some_eligible", [False, True])
    def test_chooses_for_each_row_as_choose_does(self, rows: int, some_eligible: bool) -> None:
        rng = np.random.default_rng(rows)
        scores, u = rng.integers(4, size=(rows, 5)).astype(float), rng.random(rows)
        u[::3] *= 0.3
        eligible = [[1, 3] if some_eligible and n % 2 else None for n in range(rows)]
        chosen = [choose(scores[n], eligible[n], 0.3, float(u[n])) for n in range(rows)]
        assert list(zip(*choose_all(scores, eligible, 0.3, u), strict=True)) == chosen

    def test_draws_for_each_event_as_for_one(self) -> None:
        events = [f"event-{n}" for n in range(20)]
        assert draws_uniform(b"salt", events).tolist() == [draw_uniform(b"salt", event) for event in events]


class TestChoose:
    def test_takes_the_highest_score_above_the_floor(self) -> None:
        assert choose(SCORES, None, 0.2, 0.2) == (1, 1 - 0.2 + 0.2 / 4)

    def test_of_equal_scores_takes_the_lowest_action(self) -> None:
        assert choose(SCORES, [3, 1], 0.2, 0.999)[0] == 1

    def test_explores_below_epsilon_in_equal_parts(self) -> None:
        actions = [choose(SCORES, None, 0.2, u)[0] for u in (0.0, 0.0499, 0.0501, 0.11, 0.151, 0.1999999)]
        assert actions == [0, 0, 1, 2, 3, 3]

    def test_counts_only_eligible_actions(self) -> None:
        assert choose(SCORES, [0, 2], 0.2, 0.5) == (2, 1 - 0.2 + 0.2 / 2)
        assert choose(SCORES, [0, 2], 0.2, 0.05) == (0, 0.2 / 2)

    def test_an_explored_argmax_has_the_propensity_of_the_argmax(self) -> None:
        assert choose(SCORES, None, 0.2, 0.06) == (1, 1 - 0.2 + 0.2 / 4)

    def test_one_eligible_action_is_certain(self) -> None:
        assert choose(SCORES, [2], 0.2, 0.1) == (2, 1.0)

    def test_epsilon_1_is_uniform(self) -> None:
        assert [choose(SCORES, None, 1.0, u) for u in (0.0, 0.3, 0.6, 0.9999999999999999)] == [
            (k, 0.25) for k in range(4)
        ]

    def test_a_repeated_eligible_action_counts_once(self) -> None:
        assert choose(SCORES, [0, 2, 2], 0.2, 0.5) == choose(SCORES, [0, 2], 0.2, 0.5)

    @pytest.mark.parametrize("eligible", [[], [4], [-1, 2]])
    def test_refuses_eligible_actions_that_are_none(self, eligible: list[int]) -> None:
        with pytest.raises(SchemaError, match=r"give at least one index of 0\.\.3"):
            choose(SCORES, eligible, 0.2, 0.5)


class TestProbabilities:
    def test_hold_exactly_the_propensities_of_choose(self) -> None:
        rng = np.random.default_rng(0)
        scores = rng.integers(0, 3, (200, 6)).astype(np.float64)  # many ties
        eligible = rng.random((200, 6)) < 0.5
        eligible[:, 2] = True
        p = probabilities(scores, eligible, 0.07)
        for row in range(200):
            action, propensity = choose(scores[row], np.flatnonzero(eligible[row]).tolist(), 0.07, rng.random())
            assert p[row, action] == propensity
        assert p.sum(axis=1) == pytest.approx(np.ones(200), abs=1e-12)
        assert (p[~eligible] == 0).all()
        assert (p[eligible] > 0).all()

    def test_without_a_mask_every_action_is_eligible(self) -> None:
        everything = np.ones((1, 4), dtype=bool)
        assert np.array_equal(probabilities(SCORES[None], None, 0.1), probabilities(SCORES[None], everything, 0.1))

    def test_epsilon_0_is_greedy(self) -> None:
        assert probabilities(SCORES[None], None, 0.0).tolist() == [[0.0, 1.0, 0.0, 0.0]]

    def test_refuse_a_row_without_an_eligible_action(self) -> None:
        with pytest.raises(SchemaError, match="row 1 has no eligible action"):
            probabilities(np.zeros((2, 2)), np.array([[True, False], [False, False]]), 0.1)


class TestDraw:
    def test_the_same_event_id_draws_the_same_number(self) -> None:
        assert draw_uniform(b"salt", "event") == draw_uniform(b"salt", "event")

    def test_salt_and_event_id_both_matter(self) -> None:
        assert len({draw_uniform(salt, event) for salt in (b"a", b"b") for event in ("x", "y", "")}) == 6

    def test_any_string_will_do(self) -> None:
        assert 0 <= draw_uniform(b"salt", "Grüße \ud800 \x00") < 1

    def test_draws_never_change_between_releases(self) -> None:
        assert draw_uniform(b"salt", "event-1") == 0.4847503687297685

    def test_draws_are_uniform(self) -> None:
        draws = np.sort([draw_uniform(b"salt", f"event-{i}") for i in range(10_000)])
        distance = np.abs(draws - np.arange(10_000) / 10_000).max()
        assert distance < 1.95 / 100  # Kolmogorov and Smirnov at p = 0.001
