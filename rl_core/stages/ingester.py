"""Windows of interactions become a dataset of TFRecords, once every row has been checked against the problem."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.backends import open_store
from rl_core.backends.base import EventStore, Window
from rl_core.bandit import trajectories
from rl_core.bandit.blocks import fold_of
from rl_core.bandit.trajectories import Part, Rows
from rl_core.config import Bandit, Problem, Settings
from rl_core.errors import DataError

PART_ROWS = 250_000
COLUMNS = (
    "seq",
    "event_id",
    "observation",
    "observation_version",
    "action",
    "action_set_version",
    "eligible_actions",
    "propensity",
    "reward",
    "served",
)


def run(bandit: Bandit, settings: Settings, windows: Sequence[Window], out: Path) -> int:
    """Write the windows' served interactions into the dataset folder `out`; returns how many.

    Raises:
        DataError: a window is empty or overlaps another, or a row breaks a rule; names its seq and the rule.
        StoreError: a window reaches past the log's head.
    """
    started = time.perf_counter()
    _check_windows(windows)
    index = trajectories.write(out, bandit.problem, windows, _parts(open_store(bandit, settings), bandit, windows))
    rows = sum(shard.rows for shard in index.shards)
    if rows == 0:
        raise DataError(f"windows {_shown(windows)} hold no served interaction; there is nothing to train on")
    seconds = time.perf_counter() - started
    print(
        f"ingester: {rows} interactions of {_shown(windows)}, {len(index.shards)} shards, {seconds:.2f} s", flush=True
    )
    return rows


def _check_windows(windows: Sequence[Window]) -> None:
    if not windows:
        raise DataError("no window was given; there is nothing to ingest")
    for low, high in windows:
        if not 0 <= low < high:
            raise DataError(f"window ({low}, {high}] is empty; there is nothing to ingest")
    for before, after in pairwise(sorted(windows)):
        if after[0] < before[1]:
            raise DataError(f"windows {_shown([before, after])} overlap; every interaction belongs to one window")


def _shown(windows: Sequence[Window]) -> str:
    return ", ".join(f"({low}, {high}]" for low, high in windows)


def _parts(store: EventStore, bandit: Bandit, windows: Sequence[Window]) -> Iterator[Part]:
    for window in windows:
        low, high = window
        for start in range(low, high, PART_ROWS):
            table = store.interactions((start, min(start + PART_ROWS, high)), COLUMNS)
            served = table.filter(table["served"])
            rows = to_rows(served, bandit.problem)
            yield Part(window, rows, fold_of(served["event_id"].to_pylist()))


def to_rows(table: pa.Table, problem: Problem) -> Rows:
    """Interactions as arrays. Raises DataError naming the first row that breaks a rule, and the rule."""
    seq = table["seq"].to_numpy()
    for name in ("observation_version", "action_set_version"):
        expected = getattr(problem, name)
        foreign = pc.not_equal(table[name], expected).to_numpy()
        _refuse(foreign, seq, table[name], f"{name} must be {expected!r}", "raise pipe_version and run startup")
    action, propensity, reward = (table[name].to_numpy() for name in ("action", "propensity", "reward"))
    observation = _observations(table, seq, problem.observation_dim)
    _refuse(
        (action < 0) | (action >= problem.num_actions), seq, action, f"action must lie in 0..{problem.num_actions - 1}"
    )
    _refuse(~((propensity > 0) & (propensity <= 1)), seq, propensity, "propensity must lie in (0, 1]")
    low, high = problem.reward_min, problem.reward_max
    _refuse(~((reward >= low) & (reward <= high)), seq, reward, f"reward must lie in {low:g}..{high:g}")
    eligible = _eligible(table, seq, problem.num_actions)
    _refuse(~eligible[np.arange(len(seq)), action], seq, action, "action must be one of eligible_actions")
    return Rows(seq, observation, action, reward.astype(np.float32), propensity, eligible)


def _observations(table: pa.Table, seq: NDArray[np.int64], dim: int) -> NDArray[np.float32]:
    lengths = pc.list_value_length(table["observation"]).to_numpy()
    _refuse(lengths != dim, seq, lengths, f"observation must hold {dim} numbers")
    observation: NDArray[np.float32] = pc.list_flatten(table["observation"]).to_numpy().reshape(-1, dim)
    _refuse(~np.isfinite(observation).all(axis=1), seq, table["observation"], "observation must be finite")
    return observation


def _eligible(table: pa.Table, seq: NDArray[np.int64], num_actions: int) -> NDArray[np.bool_]:
    row = np.repeat(np.arange(len(seq)), pc.list_value_length(table["eligible_actions"]).to_numpy())
    index = pc.list_flatten(table["eligible_actions"]).to_numpy()
    foreign = np.zeros(len(seq), np.bool_)
    foreign[row[(index < 0) | (index >= num_actions)]] = True
    _refuse(foreign, seq, table["eligible_actions"], f"eligible_actions must lie in 0..{num_actions - 1}")
    mask = np.zeros((len(seq), num_actions), np.bool_)
    mask[row, index] = True
    return mask


def _refuse(
    wrong: Any, seq: NDArray[np.int64], got: Any, rule: str, remedy: str = "train on a window without it"
) -> None:
    if wrong.any():
        first = int(wrong.argmax())
        value = got[first].as_py() if isinstance(got, pa.ChunkedArray) else got[first]
        raise DataError(
            f"interaction seq {seq[first]} ({int(wrong.sum())} of {len(wrong)} rows): {rule}, got {value}; "
            f"{remedy}, or correct the problem in the bandit's YAML"
        )
