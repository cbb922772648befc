"""The clock of the log's stamps, under wall clocks that jump."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_core.clock import Reading
from tests.machine import SECOND, START, Machine


def test_with_a_wall_clock_that_runs_well_it_is_the_wall_clock() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.passes(3)
    assert clock.read() == Reading(START + 3 * SECOND, 103 * SECOND, "first")


@pytest.mark.parametrize("jump", [-86_400, -60, 60, 86_400])
def test_a_jump_of_the_wall_clock_changes_what_passes_by_a_tenth_at_most(jump: int) -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock.read()
    machine.wall += jump * SECOND
    machine.passes(20)
    passed = (clock.read().stamp_ns - before.stamp_ns) / SECOND
    assert passed == (18 if jump < 0 else 22)


@pytest.mark.parametrize("jump", [-60, 60])
def test_it_meets_the_wall_clock_again(jump: int) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += jump * SECOND
    machine.passes(601)
    assert clock.read().stamp_ns == machine.wall


def test_another_process_goes_on_from_a_reading_as_the_same_clock() -> None:
    machine = Machine()
    one, other = machine.clock(), machine.clock()
    machine.wall += 3600 * SECOND
    machine.passes(100)
    reading = one.read()
    machine.passes(10)
    other.resume(reading)
    assert other.read() == one.read()


def test_after_a_restart_of_the_machine_it_goes_on_from_the_later_of_stamp_and_wall() -> None:
    before = Reading(START, 500 * SECOND, "first")
    ahead, behind = Machine(START + SECOND, 0, "second"), Machine(START - SECOND, 0, "second")
    for machine, begins in ((ahead, START + SECOND), (behind, START)):
        clock = machine.clock()
        clock.resume(before)
        assert clock.read().stamp_ns == begins


def test_a_machine_without_a_boot_id_is_never_taken_for_the_same() -> None:
    machine = Machine(boot="")
    clock = machine.clock()
    clock.resume(Reading(START + 5 * SECOND, 1, ""))
    assert clock.read().stamp_ns == START + 5 * SECOND


@given(st.lists(st.tuples(st.integers(-(10**15), 10**15), st.integers(0, 10**12))))
def test_it_never_goes_back_and_never_loses_a_tenth(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    clock = machine.clock()
    before = clock.read()
    for jump, passes in steps:
        machine.wall += jump
        machine.up += passes
        now = clock.read()
        assert 0 <= passes - passes // 10 <= now.stamp_ns - before.stamp_ns <= passes + passes // 10
        before = now
