"""The ingester: rows of the log become the dataset's rows; those that break a rule are quarantined, with the rule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import Lineage
from rl_core.bandit.blocks import fold_of
from rl_core.config import Bandit, Settings, Validation
from rl_core.dataset.quarantine import QUARANTINE, Quarantine
from rl_core.dataset.row_rules import ABSURD, RULES, TWICE
from rl_core.dataset.trajectories import DATASET, Dataset, Rows
from rl_core.errors import DataError, StoreError
from rl_core.problem_config import Problem
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
    row |= {"seq": seq, "event_id": f"event-{seq}", "policy_version": "uniform", "producer": "bus-1", "offset": seq}
    row |= {"observation": rng.standard_normal(3).astype(np.float32).tolist(), "observation_version": "users-v1"}
    row |= {"action": seq % 4, "action_id": "abcd"[seq % 4], "action_set_version": "letters-v1"}
    row |= {"eligible_actions": sorted({seq % 4, 0, 2}), "propensity": 1 / 3, "epsilon": 0.05, "source": "client"}
    row |= {"served": True, "schema_version": 1, "reward": float(rng.standard_normal()), "closed_by": "reward"}
    return row


@pytest.fixture
def log(bandit: Bandit, settings: Settings) -> Callable[[list[Row]], None]:
    def append(rows: list[Row]) -> None:
        open_backend(bandit, settings).store().append_interactions(pa.Table.from_pylist(rows, INTERACTION_SCHEMA))

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


BROKEN: list[tuple[Row, str]] = [
    ({"observation_version": "users-v0"}, "observation_version"),
    ({"policy_version": "movielens-v1-0099"}, "policy_version"),
    ({"observation": [1.0, 2.0]}, "observation_dim"),
    ({"observation": []}, "observation_dim"),
    ({"observation": [1.0, float("nan"), 2.0]}, "observation_finite"),
    ({"observation": [1.0, None, 2.0]}, "observation_finite"),
    ({"action": 4}, "action"),
    ({"action": -1}, "action"),
    ({"eligible_actions": [0, 7]}, "eligible_actions"),
    ({"eligible_actions": [0, None]}, "eligible_actions"),
    ({"eligible_action_ids": ["a", None]}, "eligible_actions"),
    ({"action": 1, "action_id": "b", "eligible_actions": [0, 2]}, "action_eligible"),
    ({"action": None, "action_id": "b", "eligible_action_ids": ["a", "c"]}, "action_eligible"),
    ({"action_id": "z", "source": "import"}, "action_id"),
    ({"action_id": ""}, "action_id"),
    ({"action_id": "c"}, "action"),
    ({"observation": [1.0, 1e15, 2.0]}, "observation_range"),
    ({"propensity": 0.0}, "propensity"),
    ({"propensity": float("nan")}, "propensity"),
    ({"propensity": 1.5}, "propensity"),
    ({"propensity": 0.001, "eligible_actions": [0, 1, 2, 3]}, "propensity_floor"),
    ({"propensity": 0.99, "eligible_actions": [0, 1, 2, 3]}, "propensity_floor"),
    ({"epsilon": float("nan")}, "propensity_floor"),
    ({"reward": float("inf")}, "reward"),
    ({"reward": float("nan")}, "reward"),
    ({"reward": 5.5}, "reward"),
    ({"event_id": "event-3"}, "duplicate"),
]
"""What is changed in an honest row, and the rule that it breaks then."""


class TestARowThatBreaksARule:
    @pytest.fixture
    def lenient(self, bandit: Bandit) -> Bandit:
        return bandit.model_copy(update={"validation": Validation(max_quarantined_share=0.2)})

    @pytest.mark.parametrize(("broken", "rule"), BROKEN)
    def test_is_quarantined_with_the_rule_and_the_others_are_trained_on(
        self,
        lenient: Bandit,
        settings: Settings,
        log: Callable[[list[Row]], None],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        broken: Row,
        rule: str,
    ) -> None:
        rows = [_row(seq) | (broken if seq == 8 else {}) for seq in range(1, 11)]
        log(rows)
        assert ingester.run(lenient, settings, [(2, 10)], tmp_path) == 7
        dataset = Dataset.open(tmp_path)
        assert sorted(Rows.concatenated(dataset.read()).seq) == [3, 4, 5, 6, 7, 9, 10]
        assert dataset.index.quarantined == {rule: 1}
        (kept,) = pq.read_table(tmp_path / QUARANTINE).to_pylist()
        assert (kept["seq"], kept["reason"], kept["event_id"]) == (8, rule, rows[7]["event_id"])
        assert f"1 rows quarantined ({rule} 1)" in capsys.readouterr().out

    def test_is_one_of_those_tried_here(self) -> None:
        named = {"features"}  # in test_named_features.py
        assert {rule for _, rule in BROKEN} | named == {rule.name for rule in (*RULES, ABSURD, TWICE)}

    def test_breaks_the_first_that_it_breaks(
        self, lenient: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        everything: Row = {}
        for broken, _ in reversed(BROKEN):
            everything |= broken
        log([_row(seq) | (everything if seq == 8 else {}) for seq in range(1, 11)])
        ingester.run(lenient, settings, [(0, 10)], tmp_path)
        assert Dataset.open(tmp_path).index.quarantined == {"observation_version": 1}

    def test_is_found_in_every_part_and_a_repeated_event_across_them(
        self,
        lenient: Bandit,
        settings: Settings,
        log: Callable[[list[Row]], None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bad: dict[int, Row] = {
            7: {"propensity": 2.0},
            41: {"event_id": "event-12"},
            42: {"event_id": "event-12"},
            99: {"action": 9},
        }
        log([_row(seq) | bad.get(seq, {}) for seq in range(1, 101)])
        monkeypatch.setattr(ingester, "PART_ROWS", 33)
        assert ingester.run(lenient, settings, [(0, 50), (50, 100)], tmp_path) == 96
        apart = pq.read_table(tmp_path / QUARANTINE)
        assert dict(zip(apart["seq"].to_pylist(), apart["reason"].to_pylist(), strict=True)) == {
            7: "propensity",
            41: "duplicate",
            42: "duplicate",
            99: "action",
        }

    def test_that_nobody_was_served_is_not_asked(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        log([_row(seq) | ({"served": False, "propensity": 7.0} if seq % 2 else {}) for seq in range(1, 11)])
        assert ingester.run(bandit, settings, [(0, 10)], tmp_path) == 5
        assert Dataset.open(tmp_path).index.quarantined == {}
        assert not (tmp_path / QUARANTINE).exists()


class TestThePolicyThatDecided:
    def test_is_known_where_it_is_registered(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        (tmp_path / "artefact").mkdir()
        (tmp_path / "artefact" / "manifest.json").write_text("{}")
        version = open_backend(bandit, settings).registry().register(tmp_path / "artefact", Lineage(None, ()))
        log([_row(seq) | {"policy_version": version} for seq in range(1, 11)])
        assert ingester.run(bandit, settings, [(0, 10)], tmp_path / "out") == 10

    def test_may_be_another_systems_whose_floor_nobody_knows(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        log([_row(seq) | {"policy_version": "rules-2025", "propensity": 0.99} for seq in range(1, 11)])
        with pytest.raises(DataError, match=r"list the policies of an imported log under validation\.other_policies"):
            ingester.run(bandit, settings, [(0, 10)], tmp_path)
        listed = bandit.model_copy(update={"validation": Validation(other_policies=("rules-2025",))})
        assert ingester.run(listed, settings, [(0, 10)], tmp_path) == 10
        assert not (tmp_path / QUARANTINE).exists(), "an earlier run's quarantine is not this one's"


class TestTooMany:
    @pytest.mark.parametrize(("bad", "stopped"), [(2, False), (3, True)])
    def test_stop_the_run_before_anything_is_trained(
        self,
        bandit: Bandit,
        settings: Settings,
        log: Callable[[list[Row]], None],
        tmp_path: Path,
        bad: int,
        stopped: bool,
    ) -> None:
        assert bandit.validation.max_quarantined_share == 0.01
        log([_row(seq) | ({"propensity": 0.0} if 50 <= seq < 50 + bad else {}) for seq in range(1, 201)])
        if not stopped:
            assert ingester.run(bandit, settings, [(0, 200)], tmp_path) == 198
            return
        with pytest.raises(DataError) as refused:
            ingester.run(bandit, settings, [(0, 200)], tmp_path)
        assert str(refused.value) == (
            "3 of 200 interactions (1.50%) of (0, 200] break a rule, more than validation.max_quarantined_share=0.01 "
            "allows, so nothing was trained: 3 as propensity must lie in (0, 1] (propensity, first at seq 50): mend "
            f"what writes such rows; they lie in {tmp_path / QUARANTINE}. A higher limit trains on the others"
        )
        assert not (tmp_path / DATASET).exists()
        assert pq.read_table(tmp_path / QUARANTINE)["seq"].to_pylist() == [50, 51, 52]

    def test_name_the_commonest_reason(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        bad: dict[int, Row] = {3: {"action": 9}, 5: {"reward": 9.0}, 6: {"reward": 9.0}}
        log([_row(seq) | bad.get(seq, {}) for seq in range(1, 11)])
        with pytest.raises(DataError, match=r"3 of 10 .*: 2 as reward must lie in -5\.\.5 \(reward, first at seq 5\)"):
            ingester.run(bandit, settings, [(0, 10)], tmp_path)

    def test_none_at_all_may_be_allowed(
        self, bandit: Bandit, settings: Settings, log: Callable[[list[Row]], None], tmp_path: Path
    ) -> None:
        strict = bandit.model_copy(update={"validation": Validation(max_quarantined_share=0)})
        log([_row(seq) | ({"propensity": 0.0} if seq == 1 else {}) for seq in range(1, 201)])
        with pytest.raises(DataError, match="1 of 200"):
            ingester.run(strict, settings, [(0, 200)], tmp_path)


def test_a_file_that_vertex_ai_mounts_is_told_by_its_address() -> None:
    assert Quarantine(Path("/gcs/bucket/run/dataset")).address == "gs://bucket/run/dataset/quarantine.parquet"
    assert Quarantine(Path("/var/run/dataset")).address == "/var/run/dataset/quarantine.parquet"
