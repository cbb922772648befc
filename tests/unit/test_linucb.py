"""LinUCB as a sum of blocks: any partition of the log gives the same policy."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rl_core.bandit.blocks import NUM_FOLDS, Block, Meaning, combine, fold_of, make_block
from rl_core.bandit.linucb import LinUCB, Statistics, accumulate
from rl_core.errors import PolicyError

K, D, ROWS = 4, 5, 400
ACTIONS = tuple("abcdefghij"[:K])


@pytest.fixture
def rows() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        "observations": rng.normal(size=(ROWS, D)).astype(np.float32),
        "actions": rng.integers(0, K, ROWS),
        "rewards": rng.normal(size=ROWS),
        "seqs": np.arange(1, ROWS + 1),
        "event_ids_or_folds": np.array([f"event-{i}" for i in range(ROWS)]),
    }


def block(rows: dict[str, Any], low: int, high: int, half_life: float = 0.0, observation_version: str = "o1") -> Block:
    own = {name: column[low:high] for name, column in rows.items()}
    return make_block(
        **own,
        window=(low, high),
        half_life=half_life,
        num_actions=K,
        meaning=Meaning(observation_version, ACTIONS),
    )


def assert_equal(one: Statistics, other: Statistics, tolerance: float = 1e-10) -> None:
    for name in ("a", "b", "n"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert np.abs(mine - theirs).max() <= tolerance * np.abs(theirs).max(), name


def naive(rows: dict[str, Any], weights: np.ndarray[Any, Any] | None = None) -> Statistics:
    sums = Statistics.zeros(K, D)
    for i in range(ROWS):
        x, w = rows["observations"][i].astype(np.float64), 1.0 if weights is None else weights[i]
        sums.a[rows["actions"][i]] += w * np.outer(x, x)
        sums.b[rows["actions"][i]] += w * rows["rewards"][i] * x
        sums.n[rows["actions"][i]] += w
    return sums


class TestAccumulate:
    def test_is_the_sum_over_rows(self, rows: dict[str, Any]) -> None:
        assert_equal(accumulate(rows["observations"], rows["actions"], rows["rewards"], K), naive(rows), 1e-13)

    def test_weighs_rows(self, rows: dict[str, Any]) -> None:
        weights = np.random.default_rng(1).uniform(0, 2, ROWS)
        weighted = accumulate(rows["observations"], rows["actions"], rows["rewards"], K, weights)
        assert_equal(weighted, naive(rows, weights), 1e-13)

    def test_does_not_depend_on_order_even_across_chunks(self) -> None:
        rng = np.random.default_rng(2)
        x, a, r = rng.normal(size=(50_000, D)), rng.integers(0, K, 50_000), rng.normal(size=50_000)
        order = rng.permutation(50_000)
        assert_equal(accumulate(x[order], a[order], r[order], K), accumulate(x, a, r, K), 1e-12)

    def test_is_exactly_symmetric(self, rows: dict[str, Any]) -> None:
        weights = np.random.default_rng(1).uniform(0, 2, ROWS)
        for given in (None, weights):
            a = accumulate(rows["observations"], rows["actions"], rows["rewards"], K, given).a
            assert np.array_equal(a, a.transpose(0, 2, 1))

    def test_no_rows_give_zeros(self) -> None:
        empty = accumulate(np.empty((0, D)), np.empty(0, dtype=np.int64), [], K)
        assert_equal(empty + Statistics.zeros(K, D), Statistics.zeros(K, D))

    @pytest.mark.parametrize("action", [-1, K])
    def test_refuses_an_unknown_action(self, action: int) -> None:
        with pytest.raises(PolicyError, match=r"must lie in 0\.\.3"):
            accumulate(np.zeros((1, D)), np.array([action]), [0.0], K)

    def test_refuses_columns_of_different_lengths(self) -> None:
        with pytest.raises(PolicyError, match="lengths differ"):
            accumulate(np.zeros((2, D)), np.array([0, 1]), [0.0], K)


class TestScores:
    def test_follow_the_textbook(self, rows: dict[str, Any]) -> None:
        statistics = naive(rows)
        policy = LinUCB.of(statistics, agent_alpha=0.7, tikhonov_weight=0.3)
        x = rows["observations"][0].astype(np.float64)
        for k in range(K):
            inverse = np.linalg.inv(statistics.a[k] + 0.3 * np.eye(D))
            theta = inverse @ statistics.b[k]
            assert policy.theta[k] == pytest.approx(theta, rel=1e-10)
            assert policy.means(x[None])[0, k] == pytest.approx(theta @ x, rel=1e-10)
            assert policy.scores(x[None])[0, k] == pytest.approx(theta @ x + 0.7 * np.sqrt(x @ inverse @ x), rel=1e-10)

    def test_of_many_rows_are_those_of_each_row(self, rows: dict[str, Any]) -> None:
        policy = LinUCB.of(naive(rows), 1.0, 0.01)
        many = np.random.default_rng(3).normal(size=(2500, D))
        one_by_one = np.concatenate([policy.scores(row[None]) for row in many])
        assert policy.scores(many) == pytest.approx(one_by_one, rel=1e-12)

    def test_without_alpha_are_the_means(self, rows: dict[str, Any]) -> None:
        policy = LinUCB.of(naive(rows), 0.0, 0.01)
        assert np.array_equal(policy.scores(rows["observations"]), policy.means(rows["observations"]))

    def test_of_an_action_never_taken_are_the_prior_width(self) -> None:
        x = np.arange(1.0, D + 1)[None]
        scores = LinUCB.of(Statistics.zeros(K, D), 0.5, 0.04).scores(x)
        assert scores == pytest.approx(np.full((1, K), 0.5 * np.linalg.norm(x) / 0.2), rel=1e-12)

    def test_damaged_statistics_are_refused(self) -> None:
        damaged = replace(Statistics.zeros(K, D), a=np.full((K, D, D), -1.0))
        with pytest.raises(PolicyError, match="not positive definite"):
            LinUCB.of(damaged, 1.0, 0.01)


class TestPartitions:
    @pytest.mark.parametrize("half_life", [0.0, 90.0])
    @pytest.mark.parametrize("seed", range(10))
    def test_any_partition_into_windows_gives_the_policy_of_one_window(
        self, rows: dict[str, Any], half_life: float, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        cuts = sorted({0, ROWS, *rng.integers(1, ROWS, rng.integers(0, 12)).tolist()})
        parts = [block(rows, low, high, half_life) for low, high in pairwise(cuts)]
        rng.shuffle(parts)
        whole = [block(rows, 0, ROWS, half_life)]
        for head in (ROWS, ROWS + 55):
            for leave_out in (None, 3):
                assert_equal(combine(parts, head, leave_out), combine(whole, head, leave_out))

    def test_forgetting_is_a_half_life_in_seq(self, rows: dict[str, Any]) -> None:
        weights = 2.0 ** (-(ROWS + 55 - rows["seqs"]) / 90.0)
        assert_equal(combine([block(rows, 0, ROWS, 90.0)], ROWS + 55), naive(rows, weights))

    def test_lambda_is_never_discounted(self, rows: dict[str, Any]) -> None:
        forgotten = combine([block(rows, 0, ROWS, 1.0)], ROWS + 10_000)
        x = np.ones((1, D))
        assert LinUCB.of(forgotten, 1.0, 0.01).scores(x) == pytest.approx(np.full((1, K), np.sqrt(D / 0.01)))

    def test_folds_add_up_to_the_whole_and_leaving_one_out_leaves_out_its_rows(self, rows: dict[str, Any]) -> None:
        whole = block(rows, 0, ROWS)
        for fold in range(NUM_FOLDS):
            assert_equal(combine([whole], ROWS, fold) + whole.folds[fold], combine([whole], ROWS))

    def test_a_fold_is_a_hash_of_the_event_id_alone(self) -> None:
        ids = [f"event-{i}" for i in range(5000)]
        folds = fold_of(ids)
        assert folds.dtype == np.int8
        assert folds[:8].tolist() == fold_of(ids[:8]).tolist()
        assert np.bincount(folds, minlength=NUM_FOLDS) == pytest.approx(1000, abs=4 * np.sqrt(5000 * 0.2 * 0.8))

    def test_folds_never_change_between_releases(self) -> None:
        assert fold_of(["a", "b", "c", "ä", ""]).tolist() == [2, 2, 4, 3, 1]

    @hypothesis.given(st.lists(st.integers(0, 300).map("ä".__mul__) | st.text(), max_size=9))
    @hypothesis.settings(max_examples=50)
    def test_a_fold_is_the_hash_that_was_always_taken(self, ids: list[str]) -> None:
        taken = [hashlib.blake2b(one.encode(), digest_size=8, person=b"fold").digest() for one in ids]
        assert fold_of(ids).tolist() == [int.from_bytes(digest, "little") % NUM_FOLDS for digest in taken]

    def test_folds_may_be_given_as_numbers(self, rows: dict[str, Any]) -> None:
        numbered = {**rows, "event_ids_or_folds": fold_of(rows["event_ids_or_folds"])}
        assert_equal(combine([block(numbered, 0, ROWS)], ROWS, 1), combine([block(rows, 0, ROWS)], ROWS, 1), 0.0)


class TestWhatCantBeAdded:
    def test_rows_outside_the_window(self, rows: dict[str, Any]) -> None:
        with pytest.raises(PolicyError, match=r"rows have seq 1\.\.400; the window \(0, 10\]"):
            make_block(**rows, window=(0, 10), half_life=0.0, num_actions=K, meaning=Meaning("o", ACTIONS))

    @pytest.mark.parametrize(("column", "value"), [("actions", K), ("event_ids_or_folds", NUM_FOLDS)])
    def test_rows_of_an_unknown_action_or_fold(self, rows: dict[str, Any], column: str, value: int) -> None:
        wrong = {**rows, "event_ids_or_folds": np.zeros(ROWS, dtype=np.int8), column: np.full(ROWS, value)}
        with pytest.raises(PolicyError, match="must lie in 0"):
            block(wrong, 0, ROWS)

    def test_blocks_of_different_versions(self, rows: dict[str, Any]) -> None:
        with pytest.raises(PolicyError, match="observation_version 'o1' and 'o2' can't be added; raise pipe_version"):
            combine([block(rows, 0, 200), block(rows, 200, ROWS, observation_version="o2")], ROWS)

    def test_blocks_of_different_half_lives(self, rows: dict[str, Any]) -> None:
        with pytest.raises(PolicyError, match=r"half_life 0\.0 and 5\.0 can't be added; do a full retrain"):
            combine([block(rows, 0, 200), block(rows, 200, ROWS, 5.0)], ROWS)

    def test_overlapping_windows(self, rows: dict[str, Any]) -> None:
        with pytest.raises(PolicyError, match=r"\(0, 200\] and \(199, 400\] overlap"):
            combine([block(rows, 199, ROWS), block(rows, 0, 200)], ROWS)

    def test_a_window_past_the_head(self, rows: dict[str, Any]) -> None:
        with pytest.raises(PolicyError, match="seq 400 passes head=300"):
            combine([block(rows, 0, ROWS)], 300)

    def test_nothing(self) -> None:
        with pytest.raises(PolicyError, match="at least one block"):
            combine([], 0)


class TestFiles:
    def test_a_block_comes_back_as_it_was(self, rows: dict[str, Any], tmp_path: Path) -> None:
        saved = block(rows, 10, 200, 50.0)
        saved.save(tmp_path / "block.npz")
        loaded = Block.load(tmp_path / "block.npz")
        assert replace(loaded, folds=()).__dict__ == replace(saved, folds=()).__dict__
        for mine, theirs in zip(loaded.folds, saved.folds, strict=True):
            assert_equal(mine, theirs, 0.0)

    def test_equal_blocks_give_equal_bytes(self, rows: dict[str, Any], tmp_path: Path) -> None:
        for name in ("one.npz", "other.npz"):
            block(rows, 0, 200, 50.0).save(tmp_path / name)
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()

    def test_statistics_come_back_as_they_were(self, rows: dict[str, Any], tmp_path: Path) -> None:
        naive(rows).save(tmp_path / "statistics.npz")
        assert_equal(Statistics.load(tmp_path / "statistics.npz"), naive(rows), 0.0)
        assert sorted(path.name for path in tmp_path.glob("*")) == ["statistics.npz"]

    def test_matrices_are_kept_by_halves_and_read_whole_as_they_used_to_be(
        self, rows: dict[str, Any], tmp_path: Path
    ) -> None:
        sums = naive(rows)
        np.savez(tmp_path / "whole.npz", a=sums.a, b=sums.b, n=sums.n)
        assert_equal(Statistics.load(tmp_path / "whole.npz"), sums, 0.0)
        many = Statistics.zeros(50, 40)
        many.save(tmp_path / "halves.npz")
        assert (tmp_path / "halves.npz").stat().st_size < 0.6 * many.a.nbytes

    def test_a_cut_file_is_an_error_of_one_line_that_names_it(self, rows: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "block.npz"
        block(rows, 0, 200).save(path)
        content = path.read_bytes()
        for size in (0, 100, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            with pytest.raises(PolicyError, match=r"block\.npz: not an npz holding") as error:
                Block.load(path)
            assert "\n" not in str(error.value)

    def test_a_missing_file_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyError, match=r"none\.npz"):
            Statistics.load(tmp_path / "none.npz")

    def test_pickles_are_never_loaded(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "pickled.npz", a=np.array([{}]), b=np.array([{}]), n=np.array([{}]))
        with pytest.raises(PolicyError, match="not an npz holding"):
            Statistics.load(tmp_path / "pickled.npz")

    def test_numbers_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        replace(Statistics.zeros(K, D), n=np.full(K, np.nan)).save(tmp_path / "statistics.npz")
        with pytest.raises(PolicyError, match="n must hold finite float64"):
            Statistics.load(tmp_path / "statistics.npz")

    def test_shapes_that_dont_belong_together_are_refused(self, tmp_path: Path) -> None:
        replace(Statistics.zeros(K, D), n=np.zeros(K + 1)).save(tmp_path / "statistics.npz")
        with pytest.raises(PolicyError, match="have shapes"):
            Statistics.load(tmp_path / "statistics.npz")
