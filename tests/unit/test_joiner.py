"""The joiner: its rules one by one, against a model of ten lines, and over a real store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_core.backends.local.joining.joiner import StoreJoiner
from rl_core.backends.local.joining.rules import Closed, Joined, JoinRules
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join
from rl_core.errors import StoreError
from rl_core.schema import DECISION_SCHEMA, INTERACTION_SCHEMA, REWARD_APART_SCHEMA
from tests.join_model import History, histories, joined, told
from tests.log_rows import BUS, JOB, WAIT_S, activations, at, decision, decisions, reward, rewards

DEFAULT = -1.0


class World:
    """A joiner, and what it has given out so far."""

    def __init__(self, close_early: bool = False) -> None:
        self.joiner = JoinRules(Join(reward_wait_s=WAIT_S, close_early=close_early), DEFAULT)
        self.closed: dict[str, Closed] = {}
        self.interactions: list[dict[str, Any]] = []
        self.apart: list[tuple[int, str]] = []
        self.set_apart: list[tuple[str, int, str]] = []

    def step(
        self,
        made: Iterable[dict[str, Any]] = (),
        earned: Sequence[dict[str, Any]] = (),
        watermark: float | None = None,
    ) -> Joined:
        passed = at(watermark) if watermark is not None else None
        joined = self.joiner.step(
            decisions(*made), rewards(*earned), self.closed, passed, at(1000), activations(*earned)
        )
        for row in joined.interactions.to_pylist():
            assert row["event_id"] not in self.closed
            self.closed[row["event_id"]] = Closed(
                _micros(row["decided_at"]), _micros(row["received_at"]), row["closed_by"]
            )
        self.interactions += joined.interactions.to_pylist()
        self.set_apart += [(row["producer"], row["offset"], row["reason"]) for row in joined.apart.to_pylist()]
        self.apart = [lost[1:] for lost in self.set_apart]
        return joined

    def outcome(self) -> dict[str, float]:
        return {row["event_id"]: row["reward"] for row in self.interactions}


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class TestADecisionCloses:
    def test_once_its_wait_is_over_with_its_reward(self) -> None:
        world = World()
        world.step([decision("a", 0)], [reward("a", 3)], watermark=10)
        assert world.interactions == []
        joined = world.step(watermark=10.000001)
        assert world.outcome() == {"a": 4.0}
        row = joined.interactions.to_pylist()[0]
        assert (row["closed_by"], row["closed_at"]) == ("reward", at(1000))
        assert (row["reward_observed_at"], row["reward_received_at"]) == (at(2.5), at(3))

    def test_with_the_default_where_no_reward_came(self) -> None:
        world = World()
        (row,) = world.step([decision("a", 0)], watermark=11).interactions.to_pylist()
        assert (row["reward"], row["closed_by"], row["reward_received_at"]) == (DEFAULT, "timeout", None)

    def test_not_before_the_reward_stream_is_drained(self) -> None:
        world = World()
        world.step([decision("a", 0)], watermark=None)
        world.step(watermark=9)
        assert world.joiner.open == 1

    def test_at_its_first_reward_where_every_decision_earns_one(self) -> None:
        world = World(close_early=True)
        world.step([decision("a", 0), decision("b", 0, 2)], [reward("a", 1)])
        assert world.outcome() == {"a": 4.0}
        assert world.joiner.open == 1

    def test_early_only_by_a_reward_on_time(self) -> None:
        world = World(close_early=True)
        world.step([decision("a", 0)], [reward("a", 11)])
        assert world.interactions == []
        world.step(watermark=12)
        assert (world.outcome(), world.apart) == ({"a": DEFAULT}, [(1, "late")])

    def test_only_if_it_was_served(self) -> None:
        world = World()
        world.step([decision("a", 0, served=False)], [reward("a", 1)], watermark=50)
        assert (world.interactions, world.apart) == ([], [(1, "unknown")])

    def test_with_every_value_it_was_logged_with_in_the_order_received(self) -> None:
        world = World()
        made = [decision(key, n / 10, n + 1) for n, key in enumerate("abcd")]
        world.step(made[2:])
        world.step(made[:2], [reward("d", 1)])
        joined = world.step(watermark=11)
        assert joined.interactions.schema.equals(INTERACTION_SCHEMA.remove(0))
        assert joined.interactions.select(DECISION_SCHEMA.names).equals(decisions(*made))


class TestOfSeveralDecisionsUnderOneId:
    @pytest.mark.parametrize("order", [[0, 1], [1, 0]])
    def test_the_first_received_counts_whichever_is_read_first(self, order: list[int]) -> None:
        world = World()
        twice = [decision("a", 2, producer="bus-9", received=3), decision("a", 3.5, producer="bus-1", received=4)]
        for n in order:
            world.step([twice[n]], [reward("a", 13, 1)] if n == 0 else [])
        (row,) = world.step(watermark=12.1).interactions.to_pylist()
        assert (row["producer"], row["reward"], world.apart) == ("bus-9", DEFAULT, [(1, "late")])


class TestAJobsDecisionClosesAtItsReward:
    """A job logs both, in two appends: the daemon may look between them."""

    @pytest.mark.parametrize("rewards_first", [True, False])
    def test_whichever_is_appended_first(self, rewards_first: bool) -> None:
        world = World()
        made, earned = [decision("a", 0, producer=JOB)], [reward("a", 1, producer=JOB)]
        if rewards_first:
            world.step([], earned, watermark=99)
            world.step(made, [], watermark=99)
        else:
            world.step(made, [], watermark=99)
            world.step([], earned, watermark=99)
        assert (world.outcome(), world.apart) == ({"a": 4.0}, [])


class TestOfSeveralRewards:
    def test_the_first_by_offset_wins_whatever_order_they_are_read_in(self) -> None:
        world = World()
        world.step([decision("a", 0)], [reward("a", 2, 8, 5.0)])
        world.step([], [reward("a", 2, 7, 3.0)], watermark=11)
        assert (world.outcome(), world.apart) == ({"a": 3.0}, [(8, "duplicate")])

    def test_one_on_time_to_the_microsecond_counts_and_one_past_it_does_not(self) -> None:
        world = World()
        made = [decision("a", 0), decision("b", 0, 2)]
        world.step(made, [reward("a", 10, 1), reward("b", 10.000001, 2)], watermark=12)
        assert (world.outcome(), world.apart) == ({"a": 4.0, "b": DEFAULT}, [(2, "late")])

    def test_those_after_the_close_are_set_apart_by_what_closed_it(self) -> None:
        world = World(close_early=True)
        world.step([decision("a", 0), decision("b", 0, 2)], [reward("a", 1, 1)], watermark=11)
        world.step([], [reward("a", 2, 2), reward("a", 12, 3), reward("b", 13, 4)])
        assert world.apart == [(2, "duplicate"), (3, "late"), (4, "late")]
        assert world.outcome() == {"a": 4.0, "b": DEFAULT}


class TestARewardWithoutDecision:
    def test_waits_for_one_that_comes_later(self) -> None:
        world = World()
        world.step([], [reward("a", 1)], watermark=5)
        world.step([decision("a", 0.5)], watermark=20)
        assert world.outcome() == {"a": 4.0}

    def test_is_unknown_after_the_wait(self) -> None:
        world = World()
        world.step([], [reward("a", 1)], watermark=11)
        assert world.apart == []
        world.step(watermark=11.000001)
        assert world.apart == [(1, "unknown")]


@pytest.mark.slow
class TestAnyOrderOfReading:
    @given(st.booleans().flatmap(lambda in_order: histories(in_order)))
    @settings(max_examples=200, deadline=None)
    def test_gives_what_the_model_gives(self, history: History) -> None:
        world = World(history.close_early)
        for step in history.steps:
            world.step(step.decisions, step.rewards, step.watermark)
        expected, apart = joined(history.decisions, history.rewards, DEFAULT)
        assert (told(world.interactions), set(world.set_apart)) == (expected, apart)
        earned = sum("activation" not in row for row in history.rewards)
        assert len(world.set_apart) + sum(row["closed_by"] == "reward" for row in world.interactions) == earned
        assert world.joiner.open == 0


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    return movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})


@pytest.fixture
def store(tmp_path: Path) -> DeltaEventStore:
    return DeltaEventStore(tmp_path / "store")


def stored(store: DeltaEventStore) -> tuple[list[tuple[int, str, float]], list[tuple[int, str]]]:
    found = store.interactions((0, store.head()))
    apart = store.query('SELECT "offset", reason FROM rewards_apart ORDER BY producer, "offset"')
    return (
        list(zip(found["seq"].to_pylist(), found["event_id"].to_pylist(), found["reward"].to_pylist(), strict=True)),
        list(zip(apart["offset"].to_pylist(), apart["reason"].to_pylist(), strict=True)),
    )


class TestOverAStore:
    def test_interactions_are_numbered_without_gap(self, bandit: Bandit, store: DeltaEventStore) -> None:
        joiner = StoreJoiner(bandit, store)
        store.append("decisions", decisions(decision("a", 0, 1), decision("b", 1, 2)))
        assert joiner.run(at(10.5)).interactions == 1
        store.append("decisions", decisions(decision("c", 2, 3)))
        store.append("rewards", rewards(reward("c", 3)))
        run = joiner.run(at(13))
        assert (run.interactions, run.head, run.open) == (2, 3, 0)
        assert stored(store)[0] == [(1, "a", 0.0), (2, "b", 0.0), (3, "c", 4.0)]

    def test_what_another_process_joined_is_not_joined_again(self, bandit: Bandit, store: DeltaEventStore) -> None:
        daemon = StoreJoiner(bandit, store)
        store.append("decisions", decisions(decision("a", 0, 1), decision("b", 5, 2)))
        store.append("rewards", rewards(reward("a", 1, 1), reward("a", 2, 2)))
        assert daemon.run(at(4)).open == 2
        store.append("decisions", decisions(decision("g", 0, 1, JOB)))
        store.append("rewards", rewards(reward("g", 0, 1, producer=JOB)))
        assert store.joiner(bandit).run(at(12)).interactions == 2
        assert daemon.run(at(20)).interactions == 1
        assert [event_id for _, event_id, _ in stored(store)[0]] == ["a", "g", "b"]
        assert stored(store)[1] == [(2, "duplicate")]

    def test_rewards_for_what_was_closed_long_ago_are_set_apart(self, bandit: Bandit, store: DeltaEventStore) -> None:
        store.append("decisions", decisions(decision("a", 0)))
        store.joiner(bandit).run(at(20))
        store.append("rewards", rewards(reward("a", 25)))
        store.joiner(bandit).run(at(30))
        assert stored(store) == ([(1, "a", 0.0)], [(1, "late")])

    def test_an_event_id_is_closed_once_even_if_it_is_logged_again(
        self, bandit: Bandit, store: DeltaEventStore
    ) -> None:
        joiner = StoreJoiner(bandit, store)
        store.append("decisions", decisions(decision("a", 0, 1)))
        joiner.run(at(20))
        store.append("decisions", decisions(decision("a", 30, 2)))
        joiner.run(at(50))
        store.joiner(bandit).run(at(60))
        assert stored(store)[0] == [(1, "a", 0.0)]


class TestAfterACrash:
    """Each run ends in the middle of its writes; the next begins with an empty memory."""

    @pytest.mark.parametrize("failing", ["append_interactions", "append_apart"])
    @pytest.mark.parametrize("close_early", [True, False])
    def test_anywhere_the_log_ends_up_the_same(
        self, bandit: Bandit, store: DeltaEventStore, failing: str, close_early: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bandit = bandit.model_copy(update={"join": Join(reward_wait_s=WAIT_S, close_early=close_early)})
        store.append("decisions", decisions(decision("a", 0, 1), decision("b", 0, 2), decision("c", 15, 3)))
        twice = [reward("a", 1, 1), reward("a", 1, 2), reward("a", 11, 3), reward("c", 16, 4), reward("x", 2, 5)]
        store.append("rewards", rewards(*twice))

        def fail(_: pa.Table) -> None:
            raise StoreError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(store, failing, fail)
            with pytest.raises(StoreError, match="killed"):
                store.joiner(bandit).run(at(14))
        for watermark in (14, 30, 30):
            store.joiner(bandit).run(at(watermark))
        interactions, apart = stored(store)
        assert sorted(row[1:] for row in interactions) == [("a", 4.0), ("b", 0.0), ("c", 4.0)]
        assert [seq for seq, *_ in interactions] == [1, 2, 3]
        assert apart == [(2, "duplicate"), (3, "late"), (5, "unknown")]

    def test_pending_rows_come_back_as_they_were(self, bandit: Bandit, store: DeltaEventStore) -> None:
        made = decisions(*(decision(f"e{n}", 0, n, served=n != 3) for n in range(1, 5)))
        earned = rewards(reward("e1", 1, 1), reward("e9", 1, 2))
        store.append("decisions", made)
        store.append("rewards", earned)
        pending = store.pending()
        assert pending.decisions.equals(made.filter(made["served"]))
        assert pending.rewards.equals(earned)
        assert pending.offsets == {"decisions": {BUS: 4}, "rewards": {BUS: 2}, "activations": {}}


def test_rewards_set_apart_have_their_tables_schema() -> None:
    assert World().step([], [reward("a", 0)], watermark=99).apart.schema.equals(REWARD_APART_SCHEMA)
