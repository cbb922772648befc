"""The blocks of a policy's lineage: made from a dataset now, or kept by the registry since an earlier training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from rl_core.backends.contracts.registry import PolicyRegistry, WindowRef
from rl_core.backends.contracts.store import Window
from rl_core.bandit.blocks import Block, Meaning, combine, make_block
from rl_core.bandit.linucb import Statistics
from rl_core.dataset.trajectories import Dataset, Rows
from rl_core.policy.manifest import verify


def make_blocks(dataset: Dataset, half_life: float) -> list[Block]:
    """Make one block per window of the dataset, with one shard in memory at a time. Raises DataError."""
    return [_window_block(dataset, window, half_life) for window in dataset.windows]


def load_blocks(registry: PolicyRegistry, windows: Iterable[WindowRef], actions: Sequence[str]) -> list[Block]:
    """Load the kept blocks of a lineage's windows. Raises RegistryError, PolicyError.

    `actions` are those of the policy: what the indices mean of blocks that keep no ids.
    """
    return [load_block(registry.block_path(ref.block), ref, actions) for ref in windows]


def load_block(path: Path, ref: WindowRef, actions: Sequence[str]) -> Block:
    """Load the block of a lineage's window. Raises PolicyError where the file is not the one that was kept."""
    verify(path, ref.block)
    block = Block.load(path)
    return replace(block, meaning=block.meaning.of_older(actions))


def statistics_without(
    blocks: Sequence[Block], windows: Sequence[Window], fold: int, actions: Sequence[str]
) -> Statistics:
    """Add blocks up for `actions`, without one fold of the given windows: what a policy knew without those rows."""
    head = max(block.seq_high for block in blocks)
    shared = [block for block in blocks if any(block.seq_low < high and low < block.seq_high for low, high in windows)]
    others = [block for block in blocks if block not in shared]
    parts = [combine(shared, head, leave_out_fold=fold, actions=actions)] if shared else []
    return reduce(add, [*parts, combine(others, head, actions=actions)] if others else parts)


def _window_block(dataset: Dataset, window: Window, half_life: float) -> Block:
    index = dataset.index
    meaning = Meaning(index.observation_version, index.actions, index.encoder.digest, index.rewards)

    def block_of(rows: Rows, fold: int) -> Block:
        return make_block(
            rows.observation,
            rows.action,
            rows.reward,
            rows.seq,
            np.full(len(rows), fold, np.int8),
            window,
            half_life,
            num_actions=len(index.actions),
            meaning=meaning,
        )

    empty = block_of(Rows.empty(index.encoder.width, len(index.actions)), 0)
    parts = (block_of(rows, fold) for fold in range(len(empty.folds)) for rows in dataset.read(window, fold))
    return reduce(_merged, parts, empty)


def _merged(one: Block, other: Block) -> Block:
    seen = (*one.seen, *other.seen)
    folds = tuple(a + b for a, b in zip(one.folds, other.folds, strict=True))
    return replace(one, folds=folds, seen=(min(seen), max(seen)) if seen else ())
