"""What is counted of the log, the same on every backend."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from rl_core.backends.contracts.store import EventStore
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join
from rl_core.monitoring.delivery import bigquery_delivery
from rl_core.monitoring.log_figures import LogFigures, local_figures
from tests.log_rows import JOB, WAIT_S, activation, at, decision, decisions, log, reward, rewards

if TYPE_CHECKING:
    from tests.contract.conftest import Backend

BACKENDS = ("gcp", "local")
HOUR = 3600


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    return movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})


def figures(bandit: Bandit, store: EventStore, now: datetime) -> LogFigures:
    if isinstance(store, DeltaEventStore):
        return local_figures(bandit, store, now)
    return bigquery_delivery(bandit, store, None, 0, now).log


def test_of_an_empty_log_are_none(store: EventStore, bandit: Bandit) -> None:
    assert figures(bandit, store, at(0)) == LogFigures()


def test_count_what_came_within_the_hour_and_what_became_of_it(
    backend: Backend, store: EventStore, bandit: Bandit
) -> None:
    made = [decision("old", -HOUR - 1, 1), decision("a", 0, 2), decision("b", 1, 3), decision("c", 2, 4)]
    store.append("decisions", decisions(*made, decision("d", 3, 5) | {"deferred": True}))
    earned = [reward("a", 5, 1), reward("a", 6, 2), reward("b", 50, 3), reward("nobody", 7, 4), activation("b", 8, 5)]
    log(store, *earned)
    backend.open_joiner(bandit).run(at(99))
    seen = figures(bandit, store, at(60))
    assert (seen.decisions, seen.rewards) == (4, 4), "an activation is no reward"
    assert (seen.interactions, seen.unactivated, seen.rewarded) == (5, 1, 0.25)
    assert (seen.duplicates, seen.late, seen.unknown) == (1, 1, 1)
    assert seen.rewards_of_late == 4
    just_before = figures(bandit, store, at(HOUR + WAIT_S + 5.5))
    assert (just_before.rewards, just_before.rewards_of_late, just_before.late) == (1, 3, 1)
    later = figures(bandit, store, datetime.now(UTC) + timedelta(hours=2))
    assert (later.decisions, later.rewards, later.interactions, later.rewarded) == (0, 0, 0, None)
    assert (later.duplicates, later.late, later.unknown) == (0, 0, 0)


def test_of_the_split_are_exact_for_every_number_of_eligible_actions(
    backend: Backend, store: EventStore, bandit: Bandit
) -> None:
    drawn = []
    for count, epsilon in ((1, 0.05), (2, 0.05), (2, 0.6), (20, 0.05), (20, 0.3)):
        best, other = 1 - epsilon + epsilon / count, epsilon / count
        drawn += [(best, epsilon, epsilon - epsilon / count, False)] * 3
        drawn += [(other, epsilon, epsilon - epsilon / count, True)] * (2 if count > 1 else 0)
    rows = [
        decision(f"event-{n}", 0, n) | {"propensity": propensity, "epsilon": epsilon}
        for n, (propensity, epsilon, _, _) in enumerate(drawn, start=1)
    ]
    told_nothing = [
        decision("uniform", 0, len(rows) + 1) | {"propensity": 0.05, "epsilon": 1.0},
        decision("shadow", 0, len(rows) + 2, served=False),
        decision("unused", 0, len(rows) + 3) | {"deferred": True},
    ]
    store.append("decisions", decisions(*rows, *told_nothing))
    store.append("decisions", decisions(decision("job", 0, 1, JOB)))
    store.append("rewards", rewards(reward("job", 1, 1, producer=JOB)))
    backend.open_joiner(bandit).run(at(99))
    split = figures(bandit, store, at(60)).split
    chances = [chance for _, _, chance, _ in drawn]
    assert split.explored == sum(explores for *_, explores in drawn) == 8
    assert split.expected == pytest.approx(sum(chances))
    assert split.variance == pytest.approx(sum(chance * (1 - chance) for chance in chances))
