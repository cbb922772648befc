"""Blocks: the immutable statistics of one window each; a policy is the weighted sum of the blocks of its lineage.

Kept in five folds, by a hash of the event id, so that a policy can be judged on rows it was not trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_core.backends.contracts.store import Window
from rl_core.bandit.linucb import Statistics, accumulate, check_range
from rl_core.bandit.npz import halved, read_npz, read_sums, write_npz
from rl_core.errors import PolicyError

NUM_FOLDS = 5
_FORMAT = 3


@dataclass(frozen=True)
class Meaning:
    """What the numbers of a block mean; blocks of different meanings can't be added, but for their actions.

    Attributes:
        actions: the id of each action index; () in blocks of before ids were kept.
        encoder: the digest of what made the features; "" likewise.
        rewards: reward_min, reward_max and reward_default; () likewise.
    """

    observation_version: str
    actions: tuple[str, ...] = ()
    encoder: str = ""
    rewards: tuple[float, ...] = ()

    def of_older(self, actions: Sequence[str]) -> Meaning:
        """Say what the indices of a block of before ids were kept stand for; of any other nothing changes."""
        return self if self.actions else replace(self, actions=tuple(actions))


@dataclass(frozen=True, eq=False)
class Block:
    """The statistics of one window `(seq_low, seq_high]`, in five folds; the trainer makes it, the registry keeps it.

    Immutable and addressed by its bytes. A row is weighted 2^(-(seq_high - seq) / half_life), the half-life being
    counted in interactions; half_life 0 weighs every row 1. `seen` are the smallest and the largest reward of its rows,
    () where there are none or nobody noted them.
    """

    seq_low: int
    seq_high: int
    half_life: float
    meaning: Meaning
    folds: tuple[Statistics, ...]
    seen: tuple[float, ...] = ()

    def save(self, path: Path) -> None:
        """Write the block as npz without pickles; equal blocks give equal bytes."""
        meta = {
            "format": np.int64(_FORMAT),
            "seq_low": np.int64(self.seq_low),
            "seq_high": np.int64(self.seq_high),
            "half_life": np.float64(self.half_life),
            "meaning": np.frombuffer(json.dumps(asdict(self.meaning)).encode(), np.uint8),
            "seen": np.asarray(self.seen, np.float64),
        }
        stacked = {name: np.stack([getattr(fold, name) for fold in self.folds]) for name in ("b", "n")}
        write_npz(path, meta | {"half": np.stack([halved(fold.a) for fold in self.folds])} | stacked)

    @classmethod
    def load(cls, path: Path) -> Block:
        """Read a block that `save` wrote, in this format or an older one. Raises PolicyError where it is none."""
        held = read_sums(path, ("format", "seq_low", "seq_high", "half_life"))
        version = int(held["format"])
        if version not in (1, 2, _FORMAT) or not len(held["a"]) == len(held["b"]) == len(held["n"]) == NUM_FOLDS:
            raise PolicyError(f"{path}: not a block of format {_FORMAT} with {NUM_FOLDS} folds; do a full retrain")
        if version == 1:
            meaning, seen = Meaning(str(read_npz(path, ("observation_version",))["observation_version"])), ()
        else:
            more = read_npz(path, ("meaning", "seen"))
            meaning, seen = _meaning(more["meaning"].tobytes()), tuple(more["seen"].tolist())
        folds = tuple(Statistics(a, b, n) for a, b, n in zip(held["a"], held["b"], held["n"], strict=True))
        for fold in folds:
            fold.check(path)
        return cls(int(held["seq_low"]), int(held["seq_high"]), float(held["half_life"]), meaning, folds, seen)


def _meaning(text: bytes) -> Meaning:
    held = json.loads(text)
    return Meaning(held["observation_version"], tuple(held["actions"]), held["encoder"], tuple(held["rewards"]))


def fold_of(event_ids: Iterable[str]) -> NDArray[np.int8]:
    """Assign each event id its fold 0..4, [n]: a hash of the id alone, so a row keeps its fold in every retrain."""
    return folds_of(digests_of(event_ids))


def digests_of(event_ids: Iterable[str]) -> NDArray[np.uint64]:
    """Hash each event id to 64 bits (BLAKE2b, RFC 7693), [n]; folds and repeated ids are found by them."""
    fresh = hashlib.blake2b(digest_size=8, person=b"fold")  # copied: to make one takes longer than to hash an id
    digests = bytearray()
    for event_id in event_ids:
        one = fresh.copy()
        one.update(event_id.encode("utf-8", "surrogatepass"))
        digests += one.digest()
    return np.frombuffer(bytes(digests), dtype="<u8")


def folds_of(digests: NDArray[np.uint64]) -> NDArray[np.int8]:
    """Take the fold 0..4 of each digest, [n]."""
    return (digests % NUM_FOLDS).astype(np.int8)


def make_block(
    observations: NDArray[np.floating[Any]],
    actions: NDArray[np.integer[Any]],
    rewards: ArrayLike,
    seqs: NDArray[np.integer[Any]],
    event_ids_or_folds: Sequence[str] | NDArray[Any],
    window: Window,
    half_life: float,
    *,
    num_actions: int,
    meaning: Meaning,
) -> Block:
    """Sum up the rows of a window, given in any order, as a block.

    Args:
        observations: [n, d] float32 or float64.
        actions: [n], in 0..num_actions-1.
        rewards: [n].
        seqs: [n], each within `window`.
        event_ids_or_folds: [n] event ids, or their folds as integers 0..4.
        window: `(low, high]` in seqs.
        half_life: of a row's weight, in interactions; 0 weighs every row 1.

    Raises:
        PolicyError: a seq lies outside the window, lengths differ, or an action is unknown.
    """
    low, high = window
    given = np.asarray(event_ids_or_folds)
    folds = given if given.dtype.kind in "iu" else fold_of(event_ids_or_folds)
    if not len(seqs) == len(folds) == len(actions):
        raise PolicyError(f"{len(seqs)} seqs, {len(folds)} folds, {len(actions)} actions: lengths differ")
    if len(seqs) and not low < int(seqs.min()) <= int(seqs.max()) <= high:
        raise PolicyError(f"rows have seq {seqs.min()}..{seqs.max()}; the window ({low}, {high}] holds others")
    weights = np.exp2(-(high - seqs) / half_life) if half_life else None
    check_range("actions", actions, num_actions)
    check_range("folds", folds, NUM_FOLDS)
    arms = folds.astype(np.int64) * num_actions + actions  # one pass over the rows for all folds
    sums = accumulate(observations, arms, rewards, NUM_FOLDS * num_actions, weights)
    ranges = (slice(fold * num_actions, (fold + 1) * num_actions) for fold in range(NUM_FOLDS))
    parts = tuple(Statistics(sums.a[own], sums.b[own], sums.n[own]) for own in ranges)
    values = np.asarray(rewards, np.float64)
    seen = (float(values.min()), float(values.max())) if len(values) else ()
    return Block(low, high, half_life, meaning, parts, seen)


def action_ids(blocks: Iterable[Block]) -> tuple[str, ...]:
    """List the ids of all actions that the blocks know: those of the newest in its order, then the others."""
    ordered = sorted(blocks, key=lambda block: -block.seq_high)
    return tuple(dict.fromkeys(action for block in ordered for action in block.meaning.actions))


def combine(
    blocks: Sequence[Block], head: int, leave_out_fold: int | None = None, actions: Sequence[str] | None = None
) -> Statistics:
    """Add blocks up by action id, with weights 2^(-(head - seq_high) / half_life), as seen from the seq `head`.

    Together with the weights within the blocks, a row of seq s counts 2^(-(head - s) / half_life). `leave_out_fold`
    leaves one fold out, so that what is solved from the rest can be judged on that fold (cross-fitting). The result's
    actions are `actions`, or those of `action_ids`; a block without an action adds nothing to it.

    Raises:
        PolicyError: no blocks; blocks of different meanings, half-lives or sizes; windows that overlap or pass `head`.
    """
    if not blocks:
        raise PolicyError(
            "a policy needs at least one block of interactions, got none; trained windows are its lineage"
        )
    ordered = sorted(blocks, key=lambda block: block.seq_low)
    for before, after in pairwise(ordered):
        _check_pair(before, after)
    if ordered[-1].seq_high > head:
        raise PolicyError(
            f"the window up to seq {ordered[-1].seq_high} passes head={head}; combine at its end or later"
        )
    wanted = action_ids(ordered) if actions is None else actions
    weighted = (
        _as_of(fold, block, head).aligned(block.meaning.actions, wanted)
        for block in ordered
        for index, fold in enumerate(block.folds)
        if index != leave_out_fold
    )
    return reduce(add, weighted)


def _as_of(fold: Statistics, block: Block, head: int) -> Statistics:
    return fold.scaled(2.0 ** (-(head - block.seq_high) / block.half_life)) if block.half_life else fold


def _check_pair(one: Block, other: Block) -> None:
    anew = "raise pipe_version and run startup"  # the log's older rows don't fit either
    whole = "do a full retrain"
    unit = f"if only the bounds changed {whole}, if the unit did {anew}"
    before, after = one.meaning, other.meaning
    for name, mine, theirs, remedy in (
        ("observation_version", before.observation_version, after.observation_version, anew),
        ("half_life", one.half_life, other.half_life, whole),
        ("encoder", before.encoder, after.encoder, whole),
        ("reward_min, reward_max, reward_default", before.rewards, after.rewards, unit),
        ("dims", one.folds[0].b.shape[1:], other.folds[0].b.shape[1:], anew),
    ):
        if mine != theirs and not {"", ()} & {mine, theirs}:  # nobody noted it before format 2
            raise PolicyError(f"blocks of {name} {mine!r} and {theirs!r} can't be added; {remedy}")
    if other.seq_low < one.seq_high:
        raise PolicyError(
            f"windows ({one.seq_low}, {one.seq_high}] and ({other.seq_low}, {other.seq_high}] overlap: "
            "their common rows would count twice; do a full retrain"
        )
