"""The generator: a uniform random log whose rewards belong to its users, written once however often it is asked for."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from rl_core.backends import open_backend
from rl_core.backends.contracts.store import EventStore
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError
from rl_core.movielens.environment import MovieLensEnvironment, load_environment
from rl_core.schema import DECISION_SCHEMA, REWARD_SCHEMA
from rl_core.stages import generator


@pytest.fixture
def store(movielens: Bandit, settings: Settings) -> EventStore:
    return open_backend(movielens, settings).store()


@pytest.fixture
def environment(movielens: Bandit, settings: Settings) -> MovieLensEnvironment:
    return load_environment(movielens, settings)[0]


def _a_client_decision(movielens: Bandit, store: EventStore, offset: int) -> None:
    """One interaction of somebody else, closed by its reward."""
    now = datetime.now(UTC)
    stamp = {"event_id": f"client-{offset}", "received_at": now, "producer": "bus-x", "offset": offset}
    row = {
        "decided_at": now,
        "policy_version": "p-1",
        "observation": [0.0] * 20,
        "observation_version": movielens.problem.observation_version,
        "action_id": "movie-1",
        "action_set_version": movielens.problem.action_set_version,
        "eligible_action_ids": ["movie-1"],
        "propensity": 1.0,
        "epsilon": 0.05,
        "source": "client",
        "served": True,
        "schema_version": 1,
    }
    store.append("decisions", pa.Table.from_pylist([stamp | row], DECISION_SCHEMA))
    store.append("rewards", pa.Table.from_pylist([stamp | {"reward": 1.0, "observed_at": now}], REWARD_SCHEMA))
    store.joiner(movielens).run(None)


class TestTheLog:
    def test_holds_the_rounds_with_exact_uniform_propensities(
        self, movielens: Bandit, settings: Settings, store: EventStore
    ) -> None:
        assert generator.run(movielens, settings, 300, seed=1) == [(0, 300)]
        rows = store.interactions((0, 300))
        assert set(rows["propensity"].to_pylist()) == {1 / 20}
        assert set(rows["policy_version"].to_pylist()) == {"uniform"}
        assert set(rows["source"].to_pylist()) == {"generator"}
        assert set(rows["closed_by"].to_pylist()) == {"reward"}
        assert rows["eligible_action_ids"].null_count == 300, "all that the list has"
        assert len(set(rows["event_id"].to_pylist())) == 300
        assert set(rows["action_id"].to_pylist()) == set(movielens.problem.actions)

    def test_rewards_each_action_as_the_served_user_would(
        self, movielens: Bandit, settings: Settings, store: EventStore, environment: MovieLensEnvironment
    ) -> None:
        generator.run(movielens, settings, 300, seed=1)
        rows = store.interactions((0, 300))
        users = environment.users_of(np.array(rows["observation"].to_pylist(), dtype=np.float32))
        assert users.min() >= 0
        expected = environment.earned(users, rows["action_id"].to_pylist(), rows["event_id"].to_pylist())
        assert np.abs(rows["reward"].to_numpy() - expected).max() < 1e-8

    def test_covers_users_and_actions_evenly(self, movielens: Bandit, settings: Settings, store: EventStore) -> None:
        generator.run(movielens, settings, 4000, seed=3)
        counts = Counter(store.interactions((0, 4000), ["action_id"])["action_id"].to_pylist())
        assert len(counts) == 20
        assert np.abs(np.array([*counts.values()]) - 200).max() < 5 * np.sqrt(
            200 * 0.95
        )  # standard deviations of a binomial count

    def test_needs_no_waiting_without_close_early(self, movielens: Bandit, settings: Settings) -> None:
        patient = movielens.model_copy(
            update={"join": movielens.join.model_copy(update={"close_early": False, "reward_wait_s": 3600.0})}
        )
        assert generator.run(patient, settings, 50, seed=1) == [(0, 50)]


@pytest.mark.slow
class TestASecondCall:
    def test_with_the_same_parameters_adds_nothing(
        self, movielens: Bandit, settings: Settings, store: EventStore
    ) -> None:
        first = generator.run(movielens, settings, 100, seed=1)
        assert generator.run(movielens, settings, 100, seed=1) == first
        assert store.head() == 100

    @pytest.mark.parametrize(("rounds", "seed"), [(100, 2), (101, 1)])
    def test_with_other_parameters_logs_other_events(
        self, movielens: Bandit, settings: Settings, store: EventStore, rounds: int, seed: int
    ) -> None:
        generator.run(movielens, settings, 100, seed=1)
        assert generator.run(movielens, settings, rounds, seed) == [(100, 100 + rounds)]
        ids = store.interactions((0, 100 + rounds), ["event_id"])["event_id"].to_pylist()
        assert len(set(ids)) == 100 + rounds

    def test_in_another_world_logs_other_events(self, movielens: Bandit, settings: Settings, store: EventStore) -> None:
        assert movielens.environment is not None
        generator.run(movielens, settings, 100, seed=1)
        calm = movielens.model_copy(update={"environment": movielens.environment.model_copy(update={"noise_sd": 0.5})})
        assert generator.run(calm, settings, 100, seed=1) == [(100, 200)]

    @pytest.mark.parametrize("appends", range(4))
    def test_after_a_call_that_was_killed_completes_it(
        self,
        movielens: Bandit,
        settings: Settings,
        store: EventStore,
        monkeypatch: pytest.MonkeyPatch,
        appends: int,
    ) -> None:
        monkeypatch.setattr(generator, "PART_ROWS", 60)  # two parts, four appends
        original, done = DeltaEventStore.append, 0

        def killed_after(self: DeltaEventStore, *arguments: object) -> int:
            nonlocal done
            if done == appends:
                raise KeyboardInterrupt
            done += 1
            return original(self, *arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(DeltaEventStore, "append", killed_after)
            with pytest.raises(KeyboardInterrupt):
                generator.run(movielens, settings, 100, seed=1)
        store.joiner(movielens).run(datetime.now(UTC))  # a joiner that runs meanwhile closes nothing too early
        windows = generator.run(movielens, settings, 100, seed=1)
        assert sum(high - low for low, high in windows) == store.head() == 100
        assert set(store.interactions((0, 100))["closed_by"].to_pylist()) == {"reward"}


def test_windows_hold_none_of_the_interactions_of_others(
    movielens: Bandit, settings: Settings, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "PART_ROWS", 60)
    _a_client_decision(movielens, store, 1)
    original = DeltaEventStore.append

    def interrupted(self: DeltaEventStore, table: str, rows: pa.Table) -> int:
        count = original(self, table, rows)  # type: ignore[arg-type]
        if table == "decisions" and rows.num_rows == 60:
            with monkeypatch.context() as patch:
                patch.setattr(DeltaEventStore, "append", original)
                _a_client_decision(movielens, store, 2)
        return count

    with monkeypatch.context() as patch:
        patch.setattr(DeltaEventStore, "append", interrupted)
        windows = generator.run(movielens, settings, 100, seed=1)
    assert sum(high - low for low, high in windows) == 100
    sources = {s for window in windows for s in store.interactions(window, ["source"])["source"].to_pylist()}
    assert sources == {"generator"}
    assert len(windows) == 2
    assert store.head() == 102


def test_a_bandit_without_an_environment_is_refused(movielens: Bandit, settings: Settings) -> None:
    startup = movielens.startup.model_copy(update={"source": "log"})
    without = movielens.model_copy(update={"environment": None, "startup": startup})
    with pytest.raises(ConfigError, match="no environment"):
        generator.run(without, settings, 10, seed=1)
