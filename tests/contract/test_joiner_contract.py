"""What the joiner of every backend does: the rules of rl_core/backends/local/joining/rules.py, over what is stored."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from rl_core.backends.contracts.store import EventStore, OpenDecisions
from rl_core.config import Bandit, Join
from rl_core.errors import StoreError
from tests.log_rows import BUS, JOB, WAIT_S, activation, at, decision, decisions, log, older_activation, reward, rewards

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

BACKENDS = ("gcp", "local")
Run = Callable[[float | None], Any]


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    return movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})


@pytest.fixture
def run(backend: Backend, bandit: Bandit) -> Run:
    joiner = backend.open_joiner(bandit)
    return lambda watermark: joiner.run(None if watermark is None else at(watermark))


def outcome(store: EventStore) -> dict[str, float]:
    """The reward of each event; that seq has no gap is what `interactions` promises."""
    found = store.interactions((0, store.head()), ["seq", "event_id", "reward"]).to_pylist()
    assert [row["seq"] for row in found] == list(range(1, len(found) + 1))
    assert len({row["event_id"] for row in found}) == len(found)
    return {row["event_id"]: row["reward"] for row in found}


def apart(store: EventStore) -> set[tuple[str, int, str]]:
    found = store.query("SELECT * FROM rewards_apart").to_pylist()
    assert len({(row["producer"], row["offset"]) for row in found}) == len(found)
    return {(row["producer"], row["offset"], row["reason"]) for row in found}


def test_a_decision_closes_when_its_wait_is_over(store: EventStore, run: Run) -> None:
    store.append(
        "decisions", decisions(decision("a", 0, 1), decision("b", 1, 2), decision("shadow", 0, 3, served=False))
    )
    store.append("rewards", rewards(reward("a", 3, 1), reward("shadow", 3, 2)))
    assert (run(None).open, run(10).interactions, outcome(store)) == (2, 0, {})
    joined = run(10.000001)
    assert (joined.interactions, joined.head, joined.open) == (1, 1, 1)
    joined = run(99)
    assert (joined.interactions, joined.apart, joined.open) == (1, 1, 0)
    assert (outcome(store), apart(store)) == ({"a": 4.0, "b": 0.0}, {(BUS, 2, "unknown")})


def test_every_value_of_the_decision_and_its_reward_is_kept(store: EventStore, run: Run) -> None:
    made = decisions(decision("a", 0, 1), decision("b", 1, 2))
    store.append("decisions", made)
    store.append("rewards", rewards(reward("b", 3)))
    run(99)
    found = store.interactions((0, 2))
    assert found.select(made.column_names).equals(made)
    assert found["closed_by"].to_pylist() == ["timeout", "reward"]
    received: list[datetime | None] = found["reward_received_at"].to_pylist()
    assert (received, found["reward_observed_at"].to_pylist()) == ([None, at(3)], [None, at(2.5)])


def test_of_several_rewards_the_first_by_offset_wins_and_the_others_are_set_apart(store: EventStore, run: Run) -> None:
    store.append("decisions", decisions(decision("a", 0, 1), decision("b", 0, 2)))
    received = [reward("a", 2, 1, 3.0), reward("a", 2, 2, 5.0), reward("a", 10.000001, 3), reward("b", 10, 4)]
    store.append("rewards", rewards(*received))
    run(12)
    store.append("rewards", rewards(reward("a", 13, 5), reward("b", 9, 6)))
    run(14)
    run(99)
    assert outcome(store) == {"a": 3.0, "b": 4.0}
    assert apart(store) == {(BUS, 2, "duplicate"), (BUS, 3, "late"), (BUS, 5, "late"), (BUS, 6, "duplicate")}


def test_a_reward_waits_for_its_decision(store: EventStore, run: Run) -> None:
    store.append("rewards", rewards(reward("a", 1, 1), reward("nobody", 1, 2)))
    assert run(5).apart == 0
    store.append("decisions", decisions(decision("a", 0.5)))
    run(20)
    assert (outcome(store), apart(store)) == ({"a": 4.0}, {(BUS, 2, "unknown")})


def test_a_jobs_decision_closes_at_its_reward_without_a_watermark(store: EventStore, run: Run) -> None:
    run(500)
    store.append("decisions", decisions(decision("a", 0, 1, JOB), decision("b", 0, 2, JOB)))
    assert run(600).open == 2
    store.append("rewards", rewards(reward("a", 1, 1, producer=JOB), reward("b", 99, 2, producer=JOB)))
    joined = run(None)
    assert (joined.interactions, joined.open) == (2, 0)
    assert (outcome(store), apart(store)) == ({"a": 4.0, "b": 0.0}, {(JOB, 2, "late")})


class TestAJobsDecisionWithoutAReward:
    """It closes once: with the default, but never before its reward may be there."""

    @pytest.fixture(autouse=True)
    def _some_are_rewarded(self, store: EventStore) -> None:
        store.append("rewards", rewards(reward("e1", 1, 1, producer=JOB)))
        store.append("decisions", decisions(*(decision(f"e{n}", n, n, JOB) for n in range(1, 5))))

    def test_closes_when_the_job_is_complete_whatever_the_time(self, store: EventStore, run: Run) -> None:
        assert (run(None).open, outcome(store)) == (3, {"e1": 4.0})
        store.complete(JOB)
        store.complete(JOB)
        joined = run(None)
        assert (joined.interactions, joined.apart, joined.open) == (3, 0, 0)
        assert closing(store)["e3"] == ("timeout", True, 0.0)

    def test_of_after_the_completion_waits_for_the_next_one(
        self, backend: Backend, bandit: Bandit, store: EventStore, run: Run
    ) -> None:
        store.complete(JOB)
        store.append("decisions", decisions(decision("e5", 5, 5, JOB)))
        assert run(None).open == 1
        store.complete(JOB)
        assert backend.open_joiner(bandit).run(None).open == 0

    def test_closes_when_its_time_is_over(self, store: EventStore, run: Run) -> None:
        assert run(2 + WAIT_S).open == 3
        joined = run(2 + WAIT_S + 0.000001)
        assert (joined.open, set(outcome(store))) == (2, {"e1", "e2"})
        assert run(99).open == 0

    def test_closes_by_time_for_a_joiner_that_has_not_seen_the_job_reward(
        self, backend: Backend, bandit: Bandit, store: EventStore, run: Run
    ) -> None:
        run(None)
        assert backend.open_joiner(bandit).run(at(99)).open == 0

    def test_stays_open_and_counted_as_long_as_its_job_has_not_begun_to_reward(
        self, backend: Backend, bandit: Bandit, store: EventStore, run: Run
    ) -> None:
        other = "import-2"
        store.append("decisions", decisions(decision("f1", 7, 1, other), decision("f2", 8, 2, other)))
        store.append("decisions", decisions(decision("late", 98)))
        assert (run(99).open, backend.open_joiner(bandit).run(at(99)).open) == (3, 3)
        assert store.open_decisions() == (OpenDecisions(BUS, 1, at(98)), OpenDecisions(other, 2, at(7)))
        store.append("rewards", rewards(reward("f2", 8, 1, 3.0, producer=other)))
        assert run(99).open == 1
        assert (outcome(store)["f1"], outcome(store)["f2"]) == (0.0, 3.0)
        run(200)
        assert store.open_decisions() == ()


def test_a_bus_is_never_complete(store: EventStore) -> None:
    with pytest.raises(StoreError, match="'bus-1' is a bus, which never ends"):
        store.complete(BUS)


def test_an_event_is_closed_once_whoever_logs_it_again(store: EventStore, run: Run) -> None:
    store.append("decisions", decisions(decision("a", 1, 1, "bus-2", received=2)))
    store.append("decisions", decisions(decision("a", 0, 1, "bus-1", received=3)))
    run(20)
    store.append("decisions", decisions(decision("a", 30, 2, "bus-1")))
    store.append("rewards", rewards(reward("a", 31)))
    run(50)
    found = store.interactions((0, store.head())).to_pylist()
    assert [(row["producer"], row["decided_at"]) for row in found] == [("bus-2", at(1))]
    assert apart(store) == {(BUS, 1, "late")}


def test_close_early_closes_at_the_first_reward_on_time(backend: Backend, bandit: Bandit, store: EventStore) -> None:
    early = bandit.model_copy(update={"join": Join(reward_wait_s=WAIT_S, close_early=True)})
    joiner = backend.open_joiner(early)
    store.append("decisions", decisions(decision("a", 0, 1), decision("b", 0, 2)))
    store.append("rewards", rewards(reward("a", 1, 1), reward("b", 11, 2)))
    assert joiner.run(None).open == 1
    store.append("rewards", rewards(reward("a", 2, 3)))
    joiner.run(at(12))
    assert (outcome(store), apart(store)) == ({"a": 4.0, "b": 0.0}, {(BUS, 2, "late"), (BUS, 3, "duplicate")})


def closing(store: EventStore) -> dict[str, tuple[str, bool, float]]:
    columns = ["event_id", "closed_by", "served", "reward"]
    found = store.interactions((0, store.head()), columns).to_pylist()
    return {event_id: (closed_by, served, earned) for event_id, closed_by, served, earned in map(dict.values, found)}


def test_a_deferred_decision_that_nobody_activated_is_closed_as_not_served(store: EventStore, run: Run) -> None:
    made = ["unused", "activated", "rewarded", "both", "too late", "rewarded late", "plain"]
    store.append("decisions", decisions(*(decision(e, 0, n, deferred=e != "plain") for n, e in enumerate(made, 1))))
    earned = [
        activation("activated", 10, 1),
        reward("rewarded", 2, 2),
        activation("both", 1, 3),
        reward("both", 3, 4),
        activation("too late", 10.000001, 5),
        reward("rewarded late", 11, 6),
        activation("plain", 1, 7),
    ]
    log(store, *earned)
    assert run(10).open == len(made)
    assert run(12).interactions == len(made)
    assert closing(store) == {
        "unused": ("unactivated", False, 0.0),
        "activated": ("timeout", True, 0.0),
        "rewarded": ("reward", True, 4.0),
        "both": ("reward", True, 4.0),
        "too late": ("unactivated", False, 0.0),
        "rewarded late": ("unactivated", False, 0.0),
        "plain": ("timeout", True, 0.0),
    }
    assert apart(store) == {(BUS, 6, "late")}


def test_an_activation_closes_nothing_and_is_never_a_reward(
    backend: Backend, bandit: Bandit, store: EventStore
) -> None:
    early = bandit.model_copy(update={"join": Join(reward_wait_s=WAIT_S, close_early=True)})
    joiner = backend.open_joiner(early)
    store.append("decisions", decisions(decision("a", 0, 1, deferred=True), decision("b", 0, 2, deferred=True)))
    store.append("decisions", decisions(decision("job", 0, 1, JOB)))
    log(store, activation("a", 1, 1), activation("b", 1, 2), activation("job", 1, 3))
    assert joiner.run(at(5)).open == 3
    # The default, at the very times of the activation: an interaction that looks like it, too.
    log(store, reward("a", 1, 4, 0.0))
    assert (joiner.run(at(5)).open, closing(store)) == (2, {"a": ("reward", True, 0.0)})
    again = backend.open_joiner(early)
    again.run(at(12))
    store.append("rewards", rewards(reward("job", 13, 1, producer=JOB)))
    again.run(at(13))
    expected = {"a": ("reward", True, 0.0), "b": ("timeout", True, 0.0), "job": ("timeout", True, 0.0)}
    assert closing(store) == expected
    assert apart(store) == {(JOB, 1, "late")}


def test_an_activation_of_what_is_closed_or_unknown_changes_nothing(store: EventStore, run: Run) -> None:
    store.append("decisions", decisions(decision("a", 0, 1, deferred=True), decision("b", 0, 2, deferred=True)))
    log(store, reward("a", 1, 1))
    run(11)
    log(store, activation("a", 10, 2), activation("a", 11, 3), activation("b", 12, 4), activation("nobody", 12, 5))
    assert (run(13).apart, run(99).apart) == (0, 0)
    assert closing(store) == {"a": ("reward", True, 4.0), "b": ("unactivated", False, 0.0)}
    assert apart(store) == set()


@pytest.mark.parametrize("kind", [activation, older_activation])
def test_an_activation_waits_for_its_decision(store: EventStore, run: Run, kind: Callable[..., dict[str, Any]]) -> None:
    log(store, kind("a", 1))
    assert run(5).apart == 0
    store.append("decisions", decisions(decision("a", 0.5, deferred=True)))
    run(20)
    assert (closing(store), apart(store)) == ({"a": ("timeout", True, 0.0)}, set())


def test_racing_joiners_close_everything_once(backend: Backend, bandit: Bandit, store: EventStore) -> None:
    made = [decision(f"e{n}", n / 10, n) for n in range(1, 41)]
    store.append("decisions", decisions(*made))
    store.append("rewards", rewards(*(reward(f"e{n}", 5, (n + 1) // 2, float(n)) for n in range(1, 41, 2))))
    failed: list[BaseException] = []

    def race() -> None:
        try:
            joiner = backend.open_joiner(bandit)
            for watermark in (11, 12, 13, 99):
                joiner.run(at(watermark))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=race) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert outcome(store) == {f"e{n}": float(n) if n % 2 else 0.0 for n in range(1, 41)}
    assert apart(store) == set()
