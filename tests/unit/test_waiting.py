"""Waiting and trying again: how often, for how long, and what is said in vain."""

from __future__ import annotations

import math
import time
from itertools import islice

import pytest

from rl_core.errors import BanditError
from rl_core.waiting import looks, pauses, tries, wait_for


def test_looks_at_once_and_a_last_time_when_the_time_is_up() -> None:
    begun = time.monotonic()
    left = list(looks(0.05, 0.01))
    assert left[-1] == 0.0
    assert left == sorted(left, reverse=True)
    assert time.monotonic() - begun >= 0.05
    assert list(looks(0.0, 1.0)) == [0.0]


def test_a_pause_never_outlasts_the_time_that_is_left() -> None:
    begun = time.monotonic()
    assert len(list(looks(0.05, math.inf))) == 2
    assert time.monotonic() - begun >= 0.05


def test_pauses_double_up_to_the_longest_or_stay_alike() -> None:
    assert list(islice(pauses(1.0, 5.0), 5)) == [1, 2, 4, 5, 5]
    assert list(islice(pauses(0.5), 3)) == [0.5, 0.5, 0.5]


def test_jitter_takes_a_random_part_of_each_pause() -> None:
    some = list(islice(pauses(1.0, jitter=True), 100))
    assert 0 <= min(some) < max(some) <= 1
    assert len(set(some)) > 1


def test_tries_count_down_and_do_not_sleep_after_the_last() -> None:
    begun = time.monotonic()
    assert list(tries(1, 1000.0)) == [0]
    assert list(tries(3, 0.001)) == [2, 1, 0]
    assert time.monotonic() - begun < 1000


def test_wait_for_gives_the_first_answer_that_is_true() -> None:
    answers = iter([None, "", "yes", "too late"])
    assert wait_for(lambda: next(answers), 60, "an answer", poll_s=0.001) == "yes"
    with pytest.raises(BanditError, match=r"waited 0 s in vain for the end of time"):
        wait_for(lambda: None, 0.01, "the end of time", poll_s=0.001)
