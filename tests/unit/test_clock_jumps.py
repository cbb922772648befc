"""Server, bus, event logger and joiner while the wall clock jumps by a day: the wait is the time that passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.small_world import WAIT_S, World

DAY_S = 86_400


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S])
class TestAJumpOfTheWallClock:
    def test_between_a_decision_and_its_reward_changes_nothing(self, world: World, jump_s: int) -> None:
        world.decide("soon", "too late", "never")
        world.machine.passes(2)
        world.machine.jumps(jump_s)
        world.machine.passes(3)
        world.reward("soon")
        assert world.log().open == 3
        world.machine.passes(3)
        assert world.log().interactions == 0
        world.machine.passes(5)
        world.reward("too late")
        world.log()
        assert world.closed() == {"soon": "reward", "too late": "timeout", "never": "timeout"}
        assert world.apart() == ["late"]

    def test_before_a_decision_changes_nothing(self, world: World, jump_s: int) -> None:
        world.decide("before")
        world.machine.jumps(jump_s)
        world.decide("after")
        world.machine.passes(5)
        world.reward("after")
        world.reward("before")
        world.machine.passes(10)
        world.log()
        assert world.closed() == {"before": "reward", "after": "reward"}

    def test_and_a_new_server_after_it_change_nothing(self, world: World, jump_s: int) -> None:
        world.decide("a", "b")
        world.machine.jumps(jump_s)
        world.start_server()
        world.machine.passes(5)
        world.reward("a")
        assert world.log().interactions == 0
        world.machine.passes(8)
        world.log()
        assert world.closed() == {"a": "reward", "b": "timeout"}

    def test_and_back_closes_nothing_twice(self, world: World, jump_s: int) -> None:
        for n in range(4):
            world.decide(f"e{n}")
            world.machine.jumps(jump_s if n % 2 else -jump_s)
            world.machine.passes(4)
            world.reward(f"e{n}")
            world.log()
        world.machine.passes(12)
        world.log()
        assert world.closed() == {f"e{n}": "reward" for n in range(4)}
        assert world.apart() == []

    def test_does_not_make_the_bus_forget_its_keys(self, world: World, jump_s: int) -> None:
        world.decide("a")
        world.machine.jumps(jump_s)
        world.machine.passes(60)
        world.log()
        assert world.logger.prune() == 0


def test_an_outage_of_the_logger_longer_than_the_wait_defaults_nothing_that_was_rewarded_in_time(world: World) -> None:
    for n in range(3):
        world.decide(f"e{n}", f"silent{n}")
        world.machine.passes(WAIT_S - 1)
        world.reward(f"e{n}")
    world.machine.passes(20 * WAIT_S)
    assert world.log().interactions == 6
    assert world.closed() == {f"e{n}": "reward" for n in range(3)} | {f"silent{n}": "timeout" for n in range(3)}


def test_a_wait_is_counted_from_the_decision_though_it_was_logged_late(world: World) -> None:
    world.decide("a")
    world.machine.passes(WAIT_S + 1)
    world.reward("a")  # before anybody has read the decision
    world.log()
    world.decide("b")
    world.log()
    world.machine.passes(WAIT_S - 1)
    world.reward("b")
    world.machine.passes(2)
    world.log()
    assert (world.closed(), world.apart()) == ({"a": "timeout", "b": "reward"}, ["late"])
