"""Schedules: what is taken here Airflow can follow; what it can't is refused where it is written, with the rule."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_core.cron import PRESETS, check_schedule

NUMBERS = st.integers(-1, 62).map(str) | st.sampled_from(["jan", "feb", "SUN", "fri", "00", "07", "x", ""])
RANGES = st.builds("{}-{}".format, NUMBERS, NUMBERS) | NUMBERS | st.just("*")
PARTS = RANGES | st.builds("{}/{}".format, RANGES, st.integers(0, 9))
FIELDS = st.lists(PARTS, min_size=1, max_size=2).map(",".join)
EASY = st.sampled_from(["*", "*/5", "1", "2-4", "1,3"])


@pytest.mark.parametrize(
    "schedule",
    [
        *PRESETS,
        "*/10 * * * *",
        "5/10 0 1-15/2 jan,dec mon-fri",
        "0 22-3 * * FRI-mon",
        "  00  07 * * 7 ",
        "0 0 29 2 *",
        "0 0 31 2 mon",
    ],
)
def test_what_airflow_follows_is_taken(schedule: str) -> None:
    assert check_schedule(schedule) == schedule


@pytest.mark.parametrize(
    ("schedule", "rule"),
    [
        ("every tuesday", r"five fields of cron .* or one of @continuous, "),
        ("", "five fields"),
        ("@fortnightly", "five fields"),
        ("* * * *", "five fields"),
        ("0 0 * * * 30", "five fields"),
        ("60 * * * *", r"the minute is '60'; .* of 0\.\.59"),
        ("0 24 * * *", r"the hour is '24'"),
        ("0 0 0 * *", r"the day of the month is '0'; .* of 1\.\.31"),
        ("0 0 * 13 *", r"the month is '13'; .* of 1\.\.12 or jan\.\.dec"),
        ("0 0 * * tuesday", r"the day of the week is 'tuesday'; .* of 0\.\.7 or sun\.\.sat"),
        ("*/0 * * * *", "the minute is"),
        ("1,,2 * * * *", "the minute is"),
        ("1-2-3 * * * *", "the minute is"),
        ("0 0 31 feb,4 *", "day 31 never comes in month feb,4"),
    ],
)
def test_what_it_can_not_is_refused_with_the_rule(schedule: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        check_schedule(schedule)


@settings(max_examples=500, deadline=None)
@given(st.tuples(*[FIELDS | EASY] * 5).map(" ".join))
def test_airflow_can_follow_whatever_is_taken(schedule: str) -> None:
    try:
        check_schedule(schedule)
    except ValueError:
        return
    croniter(schedule, datetime(2026, 1, 1, tzinfo=UTC)).get_next()
