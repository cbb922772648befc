"""Every interaction is in exactly one place, whatever was trained, refused, rolled back or started anew."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_core.backends.contracts.registry import Attempt, Lineage, PolicyRegistry, WindowRef
from rl_core.backends.contracts.store import Window
from rl_core.policy.windows import acceptable_windows, counted, exclusions, new_windows, subtract, total

SEQ = st.integers(0, 40)
WINDOW = st.tuples(SEQ, st.integers(1, 20)).map(lambda drawn: (drawn[0], drawn[0] + drawn[1]))


def seqs(windows: list[Window]) -> list[int]:
    return [seq for low, high in windows for seq in range(low + 1, high + 1)]


class TestSubtraction:
    @given(WINDOW, st.lists(WINDOW, max_size=6))
    def test_leaves_what_is_in_the_window_and_in_none_of_the_others(self, window: Window, taken: list[Window]) -> None:
        left = subtract(window, taken)
        assert seqs(left) == sorted(set(seqs([window])) - set(seqs(taken)))
        assert total(left) == len(seqs(left))
        assert all(low < high for low, high in left)

    @pytest.mark.parametrize(
        ("taken", "left"),
        [
            ([], [(0, 10)]),
            ([(0, 10)], []),
            ([(0, 4)], [(4, 10)]),
            ([(3, 4), (6, 12)], [(0, 3), (4, 6)]),
            ([(20, 30)], [(0, 10)]),
        ],
    )
    def test_by_example(self, taken: list[Window], left: list[Window]) -> None:
        assert subtract((0, 10), taken) == left

    def test_from_an_empty_log_leaves_nothing(self) -> None:
        assert subtract((0, 0), []) == []


@dataclass
class World:
    """A registry in memory, a log that grows, and the moves that DAGs and people make."""

    lineages: dict[str, Lineage] = field(default_factory=dict)
    tries: list[Attempt] = field(default_factory=list)
    champion: str | None = None
    head: int = 0

    def alias(self, name: str) -> str | None:
        return self.champion

    def lineage(self, version: str) -> Lineage:
        return self.lineages[version]

    def attempts(self) -> list[Attempt]:
        return self.tries

    @property
    def registry(self) -> PolicyRegistry:
        return cast(PolicyRegistry, self)

    def grow(self, rows: int) -> Window:
        self.head += rows
        return self.head - rows, self.head

    def train(self, trained: list[Window], inherited: list[Window], promote: bool) -> None:
        if trained:
            held = [*inherited, *trained]
            refs = tuple(WindowRef(low, high, "block") for low, high in held)
            version = f"v{len(self.lineages) + 1}"
            self.lineages[version] = Lineage(self.champion, refs, exclusions(self.registry, self.champion, held))
            verdict: Literal["promoted", "rejected"] = "promoted" if promote else "rejected"
            self.tries.append(
                Attempt(version, tuple(trained), verdict, version, "manual", "worse", datetime(2026, 1, 1, tzinfo=UTC))
            )
            self.champion = version if promote else self.champion

    def retrain_killed(self) -> None:
        """After it registered its version and before it recorded its attempt, or with its promotion undone."""
        before, tries = self.champion, list(self.tries)
        self.retrain()
        self.champion, self.tries = before, tries

    def retrain_repeated(self, promote: bool) -> None:
        """Its attempt is recorded again by a second run of the same plan."""
        self.retrain(promote)
        self.tries += self.tries[-1:]

    def retrain_overtaken(self) -> None:
        """Planned, then held up while another was promoted over the same interactions and more; then rejected."""
        planned, parent = new_windows(self.registry, self.head), self.champion
        self.grow(1)
        self.retrain()
        overtaking, self.champion = self.champion, parent
        self.train(planned, counted(self.registry, parent), promote=False)
        self.champion = overtaking

    def retrain(self, promote: bool = True) -> None:
        self.train(new_windows(self.registry, self.head), counted(self.registry, self.champion), promote)

    def retrain_in_full(self, promote: bool = True) -> None:
        own = counted(self.registry, self.champion)
        self.train([*own, *new_windows(self.registry, self.head)], [], promote)

    def start_from_simulation(self, rows: int, promote: bool = True) -> None:
        self.train([self.grow(rows)], [], promote)

    def start_from_log(self, promote: bool = True) -> None:
        self.train(acceptable_windows(self.registry, self.head), [], promote)

    def reasons(self) -> list[tuple[int, int, str]]:
        held = counted(self.registry, self.champion)
        return [(e.seq_low, e.seq_high, e.reason) for e in exclusions(self.registry, self.champion, held)]


class TestTheLog:
    @given(st.integers(0, 10**6), st.integers(1, 14))
    def test_is_divided_into_counted_excluded_and_new(self, seed: int, moves: int) -> None:
        dice, world = random.Random(seed), World()
        world.start_from_simulation(dice.randint(1, 5))
        for _ in range(moves):
            world.grow(dice.randint(0, 5))
            promote = dice.random() < 0.6
            move = dice.randrange(8)
            if move == 0:
                world.retrain(promote)
            elif move == 5:
                world.retrain_killed()
            elif move == 6:
                world.retrain_repeated(promote)
            elif move == 7:
                world.retrain_overtaken()
            elif move == 1:
                world.retrain_in_full(promote)
            elif move == 2:
                world.start_from_simulation(dice.randint(1, 5), promote)
            elif move == 3:
                world.start_from_log(promote)
            else:
                world.champion = dice.choice(list(world.lineages))
            held = counted(world.registry, world.champion)
            left_out = [(low, high) for low, high, _ in world.reasons()]
            everywhere = seqs([*held, *left_out, *new_windows(world.registry, world.head)])
            assert sorted(everywhere) == list(range(1, world.head + 1))

    @given(st.integers(0, 10**6), st.integers(1, 10))
    def test_never_gives_back_what_was_rejected_or_rolled_back(self, seed: int, moves: int) -> None:
        dice, world = random.Random(seed), World()
        world.start_from_simulation(3)
        refused: set[int] = set()
        for _ in range(moves):
            fresh = seqs([world.grow(dice.randint(1, 5))])
            before = world.champion
            move = dice.randrange(4)
            if move == 0:
                world.retrain(promote=False)
                refused |= set(fresh)
            elif move == 1:
                world.retrain(promote=True)
                world.champion = before  # rolled back at once
                refused |= set(fresh)
            elif move == 2:
                world.start_from_log()
            else:
                world.retrain_in_full()
            assert not refused & set(seqs(counted(world.registry, world.champion)))

    def test_counts_from_the_last_attempt_whatever_its_verdict(self) -> None:
        world = World()
        world.start_from_simulation(200)
        world.grow(3000)
        world.retrain(promote=False)
        world.grow(40)
        assert new_windows(world.registry, world.head) == [(3200, 3240)]

    def test_keeps_as_new_what_a_replaced_champion_left_behind(self) -> None:
        world = World()
        world.start_from_simulation(200)
        world.grow(5000)
        world.start_from_simulation(200)
        assert new_windows(world.registry, world.head) == [(200, 5200)]
        assert world.reasons() == [(0, 200, "v1 was replaced by a policy started anew")]

    def test_that_a_policy_is_started_from_holds_accepted_windows_but_no_refused_ones(self) -> None:
        world = World()
        world.start_from_simulation(200)
        world.grow(100)
        world.retrain()
        world.grow(100)
        world.retrain(promote=False)
        world.grow(100)
        world.retrain()
        world.champion = "v2"
        world.grow(100)
        assert acceptable_windows(world.registry, world.head) == [(0, 300), (500, 600)]
        assert world.reasons() == [(300, 400, "worse"), (400, 500, "v4 was rolled back")]

    def test_counts_what_a_champion_holds_though_no_attempt_says_so(self) -> None:
        world = World(lineages={"v1": Lineage(None, (WindowRef(0, 50, "block"),))}, champion="v1", head=60)
        assert new_windows(world.registry, world.head) == [(50, 60)]
