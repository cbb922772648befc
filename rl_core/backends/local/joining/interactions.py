"""Makes the rows of interactions of decisions that close."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.schema import INTERACTION_SCHEMA

_TIME = pa.timestamp("us", tz="UTC")
_WITHOUT_SEQ = INTERACTION_SCHEMA.remove(0)


def closed_with_rewards(decisions: pa.Table, rewards: pa.Table, now: datetime) -> pa.Table:
    """Close decisions [n] with a reward each [n]."""
    closed_by = pa.repeat("reward", decisions.num_rows)
    return _with(decisions, rewards["reward"], rewards["observed_at"], rewards["received_at"], closed_by, now)


def closed_as(
    decisions: pa.Table,
    rewards: Sequence[float],
    observed_at: Sequence[int | None],
    received_at: Sequence[int | None],
    closed_by: Sequence[str],
    now: datetime,
) -> pa.Table:
    """Close decisions [n] as the rules say; times in µs since 1970, None where no reward came."""
    served = pa.array([why != "unactivated" for why in closed_by], pa.bool_())
    rows = decisions.set_column(decisions.schema.get_field_index("served"), "served", served)
    reward, why = pa.array(rewards, pa.float64()), pa.array(closed_by, pa.string())
    return _with(rows, reward, pa.array(observed_at, _TIME), pa.array(received_at, _TIME), why, now)


def _with(rows: pa.Table, reward: Any, observed_at: Any, received_at: Any, closed_by: Any, now: datetime) -> pa.Table:
    return (
        rows.append_column("reward", reward)
        .append_column("reward_observed_at", observed_at)
        .append_column("reward_received_at", received_at)
        .append_column("closed_by", closed_by)
        .append_column("closed_at", pa.repeat(pa.scalar(now, _TIME), rows.num_rows))
        .cast(_WITHOUT_SEQ)
    )


def in_order(parts: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all parts in the order in which they get their seq: as they were received."""
    rows = pa.concat_tables([_WITHOUT_SEQ.empty_table(), *parts])
    if _ascends(rows):
        return rows
    return rows.sort_by([(name, "ascending") for name in ("received_at", "producer", "offset")])


def _ascends(rows: pa.Table) -> bool:
    """Tell whether they are one job's in its order: sorting so many takes longer than all else."""
    if len(pc.unique(rows["producer"])) > 1:
        return False
    times, offsets = (rows[name].cast(pa.int64()).to_numpy() for name in ("received_at", "offset"))
    later, next_one = times[1:] > times[:-1], (times[1:] == times[:-1]) & (offsets[1:] > offsets[:-1])
    return bool((later | next_one).all())
