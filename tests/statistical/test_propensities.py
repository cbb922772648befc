"""What is logged as propensity is how often the action is taken."""

from __future__ import annotations

import numpy as np
import pytest

from rl_core.bandit.exploration import choose, draw_uniform

SCORES = np.array([0.2, 0.9, 0.9, -1.0, 0.4])
DRAWS = 40_000


@pytest.mark.parametrize("eligible", [None, [0, 2, 3]])
@pytest.mark.parametrize("epsilon", [0.05, 0.3, 1.0])
def test_actions_are_taken_as_often_as_their_propensities_say(eligible: list[int] | None, epsilon: float) -> None:
    stated: dict[int, float] = {}
    taken = np.zeros(len(SCORES))
    for i in range(DRAWS):
        action, propensity = choose(SCORES, eligible, epsilon, draw_uniform(b"salt", f"event-{i}"))
        assert stated.setdefault(action, propensity) == propensity
        taken[action] += 1
    assert sorted(stated) == (eligible or list(range(len(SCORES))))
    assert sum(stated.values()) == pytest.approx(1.0)
    for action, p in stated.items():
        assert taken[action] / DRAWS == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / DRAWS))
