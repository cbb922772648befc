"""What the local store makes of slices of a producer's numbered rows: overlapping, repeated, partly old, with gaps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.errors import StoreError
from rl_core.schema import REJECTED_EVENT_SCHEMA
from tests.log_rows import at, reward, rewards

PRODUCERS = ("bus-1", "bus-2")
Rows = dict[tuple[str, int], int]
"""By producer and offset: the number of the call that brought the row."""


class Slice(NamedTuple):
    """The rows from `first` on, so many, through one of two stores that share the folder."""

    producer: str
    first: int
    size: int
    store: int


class Model:
    def __init__(self) -> None:
        self.rows: Rows = {}
        self.last = dict.fromkeys(PRODUCERS, 0)

    def append(self, one: Slice, call: int) -> range | None:
        """The offsets that are new; None where there is a gap."""
        known, end = self.last[one.producer], one.first + one.size
        if one.first > known + 1:
            return None
        self.rows |= {(one.producer, offset): call for offset in range(known + 1, end)}
        self.last[one.producer] = max(known, end - 1)
        return range(known + 1, end)


def append(store: DeltaEventStore, one: Slice, call: int, wrong: frozenset[int]) -> int:
    offsets = range(one.first, one.first + one.size)
    kept = [reward(f"e{n}", n, n, float(call), one.producer) for n in offsets if n not in wrong]
    stamps = [{"received_at": at(n), "producer": one.producer, "offset": n} for n in offsets if n in wrong]
    apart = [{"kind": "reward", "payload": str(call), "reason": "no number", **stamp} for stamp in stamps]
    return store.append(
        "rewards", rewards(*kept), {"rejected_events": pa.Table.from_pylist(apart, schema=REJECTED_EVENT_SCHEMA)}
    )


def assert_agree(stores: Sequence[DeltaEventStore], model: Model, wrong: frozenset[int]) -> None:
    for store in stores:
        assert {producer: store.last_offset("rewards", producer) for producer in PRODUCERS} == model.last
    good = {key: call for key, call in model.rows.items() if key[1] not in wrong}
    assert stored(stores[0], "rewards", "reward") == good
    assert stored(stores[1], "rejected_events", "payload") == {k: v for k, v in model.rows.items() if k not in good}


def stored(store: DeltaEventStore, table: str, call: str) -> Rows:
    found = store.query(f"SELECT * FROM {table}").to_pylist()  # noqa: S608  a table of ours
    rows = {(row["producer"], row["offset"]): int(row[call]) for row in found}
    assert len(rows) == len(found), "a row is in twice"
    return rows


slices = st.builds(Slice, st.sampled_from(PRODUCERS), st.integers(1, 10), st.integers(1, 8), st.integers(0, 1))


@pytest.mark.slow
@given(st.lists(slices, min_size=1, max_size=6), st.frozensets(st.integers(1, 18)))
@settings(
    max_examples=25,
    derandomize=False,
    print_blob=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_any_slices_are_stored_once_by_offset_and_a_gap_changes_nothing(
    calls: list[Slice], wrong: frozenset[int]
) -> None:
    model = Model()
    with TemporaryDirectory() as folder:
        stores = [DeltaEventStore(Path(folder) / "store") for _ in range(2)]
        for call, one in enumerate(calls):
            new = model.append(one, call)
            if new is None:
                with pytest.raises(StoreError, match="is followed by"):
                    append(stores[one.store], one, call, wrong)
                assert_agree(stores, model, wrong)
            else:
                assert append(stores[one.store], one, call, wrong) == len(set(new) - wrong)
        assert_agree(stores, model, wrong)
