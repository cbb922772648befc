"""What is not due is not looked at, however much is open; what closed early takes no memory for ever."""

from __future__ import annotations

import time

import pytest

from rl_core.backends.local.joining.deadlines import Deadlines
from rl_core.backends.local.joining.rules import JoinRules
from rl_core.config import Join
from tests.log_rows import at, decision, decisions, rewards


def test_those_that_are_due_are_taken_out_in_their_order() -> None:
    deadlines = Deadlines()
    for moment, event_id in [(5, "e"), (1, "a"), (3, "c"), (3, "b")]:
        deadlines.add(moment, event_id)
    assert deadlines.before(3) == ["a"]
    assert deadlines.before(5) == ["b", "c"]
    assert deadlines.before(5) == []
    assert deadlines.before(6) == ["e"]


def test_those_that_closed_early_are_dropped_in_the_end() -> None:
    deadlines, still = Deadlines(), {"9", "4999"}
    for number in range(5000):
        deadlines.add(number, str(number))
    deadlines.keep(still, len(still))
    assert len(deadlines) == 2
    assert deadlines.before(10_000) == ["9", "4999"]


@pytest.mark.slow
def test_a_poll_of_nothing_new_costs_no_more_with_many_open() -> None:
    def polls(count: int) -> float:
        """CPU seconds of this thread for 50 of them."""
        rules, made = JoinRules(Join(reward_wait_s=1000), 0.0), decision("", 0, 1)
        rules.step(
            decisions(*(made | {"event_id": f"e{n}", "offset": n} for n in range(count))), rewards(), {}, None, at(0)
        )
        start = time.thread_time()
        for _ in range(50):
            rules.step(decisions(), rewards(), {}, at(1), at(1))
        taken = time.thread_time() - start
        assert rules.open == count
        assert rules.step(decisions(), rewards(), {}, at(1001), at(1001)).interactions.num_rows == count
        return taken

    few = min(polls(20) for _ in range(3))
    assert min(polls(20_000) for _ in range(3)) < 4 * few, "each was looked at: fifty times as long"
