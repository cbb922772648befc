"""The ingester: rows of the log become the dataset's rows; a row that breaks a rule stops it with its seq."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rl_core.backends import open_store
from rl_core.bandit.blocks import fold_of
from rl_core.bandit.trajectories import Dataset, Rows
from rl_core.config import Bandit, Problem, Settings
from rl_core.errors import DataError, StoreError
from rl_core.schema import INTERACTION_SCHEMA
from rl_core.stages import ingester

NOW = datetime(2026, 1, 2, tzinfo=UTC)
Row = dict[str, Any]


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    problem = Problem(
        observation_dim=3,
        observation_version="users-v1",
        actions=("a", "b", "c", "d"),
        action_set_version="letters-v1",
        reward_min=-5,
        reward_max=5,
        reward_default=0,
    )
    return movielens.model_copy(update={"problem": problem})


def _row(seq: int) -> Row:
    rng = np.random.default_rng(seq)
    row: Row = dict.fromkeys(INTERACTION_SCHEMA.names)
    row |= dict.fromkeys(("decided_at", "received_at", "closed_at"), NOW)
    row |= {"seq": seq, "event_id": f"event-{seq}", "policy_version": "p-1", "producer": "bus-1", "offset": seq}
    row |= {"observation": rng.standard_normal(3).astype(np.float32).tolist(), "observation_version": "users-v1"}
    row |= {"action": seq % 4, "action_id": "abcd"[seq % 4], "action_set_version": "letters-v1"}
    row |= {"eligible_actions": sorted({seq % 4, 0, 2}), "propensity": 1 / 3, "epsilon": 0.05, "source": "client"}
    row |= {"served": True, "schema_version": 1, "reward": float(rng.standard_normal()), "closed_by": "reward"}
    return row


@pytest.fixture
def log(bandit: Bandit, settings: Settings) -> Callable[[list[Row]], None]:
    def append(rows: list[Row]) -> None:
        open_store(bandit, settings).append_interactions(pa.Table.from_pylist(rows, INTERACTION_SCHEMA))

    return append


class TestTheDataset:
    def test_holds_every_row_of_the_windows_and_no_other(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        rows = [_row(seq) for seq in range(1, 101)]
        log(rows)
        assert ingester.run(bandit, settings, [(0, 30), (60, 90)], tmp_path) == 60
        dataset = Dataset.open(tmp_path)
        assert dataset.windows == ((0, 30), (60, 90))
        read = Rows.concatenated(dataset.read())
        read = read.take(np.argsort(read.seq))
        expected = [rows[seq - 1] for seq in read.seq]
        assert read.seq.tolist() == [*range(1, 31), *range(61, 91)]
        assert read.observation.tolist() == [row["observation"] for row in expected]
        assert read.action.tolist() == [row["action"] for row in expected]
        assert read.reward.tolist() == [float(np.float32(row["reward"])) for row in expected]
        assert read.propensity.tolist() == [row["propensity"] for row in expected]
        assert [np.flatnonzero(mask).tolist() for mask in read.eligible] == [
            row["eligible_actions"] for row in expected
        ]

    def test_is_split_into_folds_by_event_id(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        log([_row(seq) for seq in range(1, 101)])
        ingester.run(bandit, settings, [(0, 100)], tmp_path)
        dataset = Dataset.open(tmp_path)
        for fold in range(5):
            seqs = Rows.concatenated(dataset.read(fold=fold)).seq
            assert (fold_of([f"event-{seq}" for seq in seqs]) == fold).all()

    def test_of_a_large_window_comes_in_parts_with_the_same_rows(
        self,
        bandit: Bandit,
        settings: Settings,
        log: Callable[[list[Row]], None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        log([_row(seq) for seq in range(1, 101)])
        monkeypatch.setattr(ingester, "PART_ROWS", 33)
        assert ingester.run(bandit, settings, [(0, 100)], tmp_path) == 100
        seqs = Rows.concatenated(Dataset.open(tmp_path).read((0, 100))).seq
        assert sorted(seqs) == list(range(1, 101))

    def test_leaves_shadow_rows_out(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        log([_row(seq) | {"served": seq % 2 == 0, "propensity": 0.5 if seq % 2 == 0 else -1.0} for seq in range(1, 11)])
        assert ingester.run(bandit, settings, [(0, 10)], tmp_path) == 5


class TestAWindow:
    @pytest.mark.parametrize(
        ("windows", "says"),
        [
            ([], "no window"),
            ([(5, 5)], r"window \(5, 5\] is empty"),
            ([(0, 6), (5, 8)], r"\(0, 6\], \(5, 8\] overlap"),
        ],
    )
    def test_that_is_empty_or_overlaps_is_refused(
        self, bandit: Bandit, settings: Settings, tmp_path: Path, windows: list[tuple[int, int]], says: str
    ) -> None:
        with pytest.raises(DataError, match=says):
            ingester.run(bandit, settings, windows, tmp_path)

    def test_past_the_head_is_refused(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        log([_row(1), _row(2)])
        with pytest.raises(StoreError, match="head"):
            ingester.run(bandit, settings, [(0, 3)], tmp_path)

    def test_of_shadow_rows_alone_is_refused(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        log([_row(1) | {"served": False}])
        with pytest.raises(DataError, match="no served interaction"):
            ingester.run(bandit, settings, [(0, 1)], tmp_path)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ({"observation": [1.0, 2.0]}, "observation must hold 3 numbers, got 2"),
        ({"observation": [1.0, float("nan"), 2.0]}, "observation must be finite"),
        ({"observation_version": "users-v0"}, "observation_version must be 'users-v1', got users-v0"),
        ({"action_set_version": "letters-v0"}, "action_set_version must be 'letters-v1', got letters-v0"),
        ({"action": 4}, r"action must lie in 0\.\.3, got 4"),
        ({"action": 1, "eligible_actions": [0, 2]}, "action must be one of eligible_actions, got 1"),
        ({"eligible_actions": [0, 7]}, r"eligible_actions must lie in 0\.\.3, got \[0, 7\]"),
        ({"propensity": 0.0}, r"propensity must lie in \(0, 1\], got 0.0"),
        ({"propensity": float("nan")}, r"propensity must lie in \(0, 1\], got nan"),
        ({"propensity": 1.5}, "propensity must lie in"),
        ({"reward": float("inf")}, r"reward must lie in -5\.\.5, got inf"),
        ({"reward": 5.5}, r"reward must lie in -5\.\.5, got 5.5"),
    ],
)
def test_a_row_that_breaks_a_rule_is_named_by_its_seq(
    bandit: Bandit,
    settings: Settings,
    log: Callable[[list[Row]], None],
    tmp_path: Path,
    broken: Row,
    rule: str,
) -> None:
    log([_row(seq) | (broken if seq == 8 else {}) for seq in range(1, 11)])
    with pytest.raises(DataError, match=f"interaction seq 8 .*: {rule}") as refused:
        ingester.run(bandit, settings, [(2, 10)], tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "dataset.json").exists()
