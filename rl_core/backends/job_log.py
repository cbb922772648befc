"""What jobs that write a log share: rewards first, stamps that a second run finds again, columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from rl_core.backends.conform import conform
from rl_core.backends.contracts.store import EventStore


def append(store: EventStore, decisions: pa.Table, rewards: pa.Table) -> None:
    """Append a part: rewards before their decisions, so that no joiner sees a decision that seems to have none."""
    if rewards.num_rows:
        store.append("rewards", rewards)
    store.append("decisions", decisions)


def begun_at(store: EventStore, producer: str) -> datetime | None:
    """Return when the first row of a job that was cut short was received, None where nothing of it is in the log."""
    for table in ("rewards", "decisions"):
        found = store.query(f"SELECT min(received_at) AS first FROM {table} WHERE producer = '{producer}'")  # noqa: S608
        first: datetime | None = found["first"][0].as_py()
        if first is not None:
            return first
    return None


def lists(values: Any, width: int) -> pa.ListArray:
    """Return values [n * width] as n lists."""
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, width, dtype=np.int32), values)


def empty_lists(n: int) -> pa.ListArray:
    """Return n empty observations: those of named features."""
    return pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), pa.array([], pa.float32()))


def rows_of(columns: Mapping[str, pa.Array], schema: pa.Schema) -> pa.Table:
    """Return a table of the log with these columns. Raises SchemaError naming the column that doesn't fit."""
    return conform(pa.table({name: columns[name] for name in schema.names if name in columns}), schema)
