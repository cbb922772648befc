"""Student's t, against the values that every printed table has."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from rl_core.bandit.student import student_reach

TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 60: 2.000, 120: 1.980, 10**7: 1.960}


@pytest.mark.parametrize("degrees", TABLE)
def test_agrees_with_the_table_of_95_percent(degrees: int) -> None:
    assert student_reach(0.95, degrees) == pytest.approx(TABLE[degrees], abs=0.0006)


@pytest.mark.parametrize(("confidence", "table"), [(0.5, 0.727), (0.9, 2.015), (0.99, 4.032), (0.999, 6.869)])
def test_agrees_with_the_table_of_5_degrees(confidence: float, table: float) -> None:
    assert student_reach(confidence, 5) == pytest.approx(table, abs=0.0006)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_one_degree_is_cauchys_distribution(confidence: float) -> None:
    assert student_reach(confidence, 1) == pytest.approx(math.tan(math.pi / 2 * confidence))


def test_falls_with_every_part_of_a_degree() -> None:
    reaches = [student_reach(0.95, 1 + i / 10) for i in range(600)]
    assert all(more > less for more, less in pairwise(reaches))
