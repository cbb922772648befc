"""The encoder: one pure function for server and training, with ranges that are learnt once."""

from __future__ import annotations

import numpy as np
import pytest

from rl_core.errors import SchemaError
from rl_core.features.encoder import Encoder

ORDINARY = np.random.default_rng(0).standard_normal((4000, 3)).astype(np.float32)
LEARNT = Encoder(dim=3).learnt(ORDINARY)


class TestRanges:
    def test_are_ten_times_the_99th_percentile_of_a_coordinates_size(self) -> None:
        assert LEARNT.clip == pytest.approx(10 * np.quantile(np.abs(ORDINARY), 0.99, axis=0), rel=0.01)

    @pytest.mark.parametrize("rows", [50, 4000])
    def test_are_not_bent_by_one_absurd_row(self, rows: int) -> None:
        some = ORDINARY[:rows].copy()
        some[17] = [1e15, 2e15, -1e15]
        assert Encoder(dim=3).learnt(some).clip == pytest.approx(Encoder(dim=3).learnt(ORDINARY[:rows]).clip, rel=0.5)

    @pytest.mark.parametrize("unit", [1e-4, 1.0, 1e6, 1e30])
    def test_follow_the_unit_of_the_rows(self, unit: float) -> None:
        scaled = Encoder(dim=3).learnt(ORDINARY * np.float32(unit))
        assert scaled.clip == pytest.approx(np.asarray(LEARNT.clip) * unit, rel=1e-5)
        assert not scaled.absurd(ORDINARY * np.float32(unit)).any()

    def test_of_a_feature_that_is_mostly_absent_are_those_of_its_presence(self) -> None:
        rare = np.zeros((4000, 1), np.float32)
        rare[::500] = 3.0
        assert Encoder(dim=1).learnt(rare).clip == (30.0,)

    def test_of_a_feature_that_never_was_are_none(self) -> None:
        encoder = Encoder(dim=1).learnt(np.zeros((100, 1), np.float32))
        assert encoder.encode(np.array([[3e38]], np.float32)).tolist() == [[np.float32(3e38)]]


class TestEncoding:
    def test_clips_what_lies_outside_and_leaves_the_rest_as_it_is(self) -> None:
        row = np.array([[1.5, -1e3, 1e3]], np.float32)
        first, second, third = LEARNT.encode(row)[0]
        assert (first, second, third) == (np.float32(1.5), -np.float32(LEARNT.clip[1]), np.float32(LEARNT.clip[2]))  # type: ignore[index]
        assert LEARNT.clipped(row) == 2
        assert LEARNT.encode(ORDINARY) is ORDINARY

    def test_gives_one_row_the_bits_that_it_has_among_many(self) -> None:
        encoder = LEARNT.model_copy(update={"intercept": True})
        wild = ORDINARY * np.float32(20)
        together = encoder.encode(wild)
        assert all(np.array_equal(encoder.encode(wild[i : i + 1])[0], together[i]) for i in range(0, 4000, 97))

    def test_with_an_intercept_adds_a_one(self) -> None:
        encoder = Encoder(dim=3, intercept=True)
        assert encoder.width == 4
        assert encoder.encode(np.zeros((2, 3), np.float32)).tolist() == [[0, 0, 0, 1], [0, 0, 0, 1]]

    def test_refuses_what_is_absurd_and_names_it(self) -> None:
        row = np.array([[0, 0, 0], [0, 1e7, 0]], np.float32)
        with pytest.raises(SchemaError, match=r"instances\[1\]\.observation\[1\] is 1e\+07; it must lie within ±25"):
            LEARNT.refuse_absurd(row)
        LEARNT.refuse_absurd(ORDINARY * np.float32(100))

    def test_that_knows_no_ranges_changes_nothing(self) -> None:
        row = np.array([[1e30, -1e30, 0]], np.float32)
        encoder = Encoder(dim=3)
        encoder.refuse_absurd(row)
        assert encoder.encode(row) is row


class TestADigest:
    def test_is_of_definition_and_ranges(self) -> None:
        encoders = [Encoder(dim=3), Encoder(dim=3, intercept=True), Encoder(dim=4), LEARNT]
        assert len({encoder.digest for encoder in encoders}) == 4
        assert Encoder.model_validate_json(LEARNT.model_dump_json()).digest == LEARNT.digest
        before = Encoder(dim=2)
        assert before.digest != before.learnt(np.ones((9, 2), np.float32)).digest, "whoever asked for it before"
