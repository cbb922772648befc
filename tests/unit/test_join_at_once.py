"""What a job's rows are joined as at once is what the rules make of each: any order, repetition and mixture of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_core.backends.local.joining import rules
from rl_core.backends.local.joining.at_once import AtOnce, pair
from rl_core.backends.local.joining.rules import JoinRules
from rl_core.config import Join
from tests.log_rows import BUS, JOB, WAIT_S, at, decision, decisions, reward, rewards

Row = dict[str, Any]
EVENTS, PRODUCERS = st.sampled_from("abcde"), st.sampled_from([JOB, JOB, "import-1", BUS])
SECONDS = st.sampled_from([0.0, 1.0, 9.0, 25.0])  # 25 is late for a decision at 0


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[list[Row], list[Row], int | None]]:
    """Decisions, rewards and watermark of each step."""
    offsets = iter(range(1, 100))

    def decided() -> Row:
        served = draw(st.sampled_from([True, True, True, False]))
        return decision(
            draw(EVENTS), draw(SECONDS), next(offsets), draw(PRODUCERS), served, deferred=draw(st.booleans())
        )

    def rewarded() -> Row:
        return reward(draw(EVENTS), draw(SECONDS), next(offsets), float(next(offsets)), draw(PRODUCERS))

    return [
        (
            [decided() for _ in range(draw(st.integers(0, 5)))],
            [rewarded() for _ in range(draw(st.integers(0, 5)))],
            draw(st.sampled_from([None, 5, 40])),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]


def none_at_once(made: pa.Table, earned: pa.Table, *_: object) -> AtOnce:
    return AtOnce(made.slice(made.num_rows), earned.slice(earned.num_rows), made, earned)


def played(history: list[tuple[list[Row], list[Row], int | None]], how: Callable[..., AtOnce]) -> list[Any]:
    """What each step closes and sets apart, and what is open after it."""
    joiner, told = JoinRules(Join(reward_wait_s=WAIT_S), -1.0), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rules, "pair", how)
        for made, earned, passed in history:
            joined = joiner.step(
                decisions(*made), rewards(*earned), {}, None if passed is None else at(passed), at(100)
            )
            apart = sorted(joined.apart.to_pylist(), key=lambda row: row["offset"])
            told.append((joined.interactions.to_pylist(), apart, joiner.open))
    return told


@given(steps())
@settings(max_examples=60, deadline=None)
def test_any_rows_are_joined_as_the_rules_say(history: list[tuple[list[Row], list[Row], int | None]]) -> None:
    assert played(history, pair) == played(history, none_at_once)


def test_a_job_s_decisions_are_left_to_nobody() -> None:
    made = decisions(*(decision(f"e{n}", n, n + 1, JOB) for n in range(5)))
    earned = rewards(*(reward(f"e{n}", n, n + 1, producer=JOB) for n in reversed(range(5))))
    found = pair(made, earned, 10_000_000, ())
    assert found.other_decisions.num_rows == found.other_rewards.num_rows == 0
    assert (
        found.decisions["event_id"].to_pylist() == found.rewards["event_id"].to_pylist() == [f"e{n}" for n in range(5)]
    )
