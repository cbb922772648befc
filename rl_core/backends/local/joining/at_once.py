"""Pairs a job's decisions with the one reward that comes with each: nothing else can change what becomes of them.

The rules look at every row by itself, which takes ten times as long; a generator and an import log little else.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.backends.contracts.bus import BUS_PREFIX


class AtOnce(NamedTuple):
    """Decisions and rewards that belong together, row by row, and those that are left to the rules."""

    decisions: pa.Table
    rewards: pa.Table
    other_decisions: pa.Table
    other_rewards: pa.Table


def pair(decisions: pa.Table, rewards: pa.Table, wait: int, known: Sequence[Container[str]]) -> AtOnce:
    """Pair the jobs' served decisions whose event id stands in one decision, in one reward on time and in none `known`.

    Args:
        wait: for how long before and after its decision a reward is on time, in µs.
    """
    n, by_jobs = decisions.num_rows, _by_jobs(decisions)
    if not by_jobs.any() or not rewards.num_rows:
        return AtOnce(decisions.slice(n), rewards.slice(rewards.num_rows), decisions, rewards)
    ids = pa.chunked_array([*decisions["event_id"].chunks, *rewards["event_id"].chunks], pa.string())
    codes = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    decided, rewarded = codes[:n], codes[n:]
    once = (np.bincount(decided, minlength=len(codes)) == 1) & (np.bincount(rewarded, minlength=len(codes)) == 1)
    rows = np.zeros(len(codes), np.int64)
    rows[rewarded] = np.arange(len(rewarded))
    reward = rows[decided]  # of a decision whose id is there once
    at = _times(rewards, "received_at")[reward]
    sure = by_jobs & once[decided] & decisions["served"].to_numpy()
    sure &= (at >= _times(decisions, "received_at") - wait) & (at <= _times(decisions, "decided_at") + wait)
    if known := [one for one in known if one]:
        keys = decisions["event_id"].to_pylist()
        sure &= ~np.fromiter((any(key in one for one in known) for key in keys), np.bool_, n)
    left = np.ones(len(rewarded), np.bool_)
    left[reward[sure]] = False
    return AtOnce(
        _where(decisions, sure), rewards.take(pa.array(reward[sure])), _where(decisions, ~sure), _where(rewards, left)
    )


def _by_jobs(rows: pa.Table) -> NDArray[np.bool_]:
    made: NDArray[np.bool_] = pc.starts_with(rows["producer"], BUS_PREFIX).to_numpy()
    return ~made


def _times(rows: pa.Table, name: str) -> NDArray[np.int64]:
    micros: NDArray[np.int64] = rows[name].cast(pa.int64()).to_numpy()
    return micros


def _where(rows: pa.Table, mask: NDArray[Any]) -> pa.Table:
    """Without a copy where all are meant."""
    return rows if mask.all() else rows.filter(pa.array(mask))
