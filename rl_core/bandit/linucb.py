"""Linear UCB in closed form: training is a sum, so windows become blocks, and a policy is a weighted sum of blocks.

For each of K actions a: A_a = Σ w x xᵀ, b_a = Σ w r x over the rows where a was taken; θ_a = (A_a + λI)⁻¹ b_a and
score_a(x) = θ_a·x + α √(xᵀ (A_a + λI)⁻¹ x). λ is added when solving, so forgetting never discounts it.
Li, Chu, Langford, Schapire (2010), "A contextual-bandit approach to personalized news article recommendation",
algorithm 1 (disjoint models). Everything is float64.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_core.backends.base import Window
from rl_core.errors import PolicyError

Array = NDArray[np.float64]

NUM_FOLDS = 5
_CHUNK = 32_768  # rows sorted and multiplied at a time: they stay in the second-level cache
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Statistics:
    """What LinUCB needs of any number of rows: a [K, d, d] = Σ w x xᵀ, b [K, d] = Σ w r x, n [K] = Σ w."""

    a: Array
    b: Array
    n: Array

    @classmethod
    def zeros(cls, num_actions: int, dim: int) -> Statistics:
        return cls(np.zeros((num_actions, dim, dim)), np.zeros((num_actions, dim)), np.zeros(num_actions))

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(self.a + other.a, self.b + other.b, self.n + other.n)

    def scaled(self, weight: float) -> Statistics:
        return Statistics(weight * self.a, weight * self.b, weight * self.n)

    def save(self, path: Path) -> None:
        """Write a, b and n as npz; equal statistics give equal bytes."""
        _write_npz(path, {"a": self.a, "b": self.b, "n": self.n})

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Raises PolicyError where the file is not what `save` wrote."""
        held = _read_npz(path, ("a", "b", "n"))
        statistics = cls(held["a"], held["b"], held["n"])
        statistics._check(path)
        return statistics

    def _check(self, path: Path) -> None:
        num_actions, dim = self.b.shape if self.b.ndim == 2 else (0, 0)
        shapes = (self.a.shape, self.b.shape, self.n.shape)
        if shapes != ((num_actions, dim, dim), (num_actions, dim), (num_actions,)):
            raise PolicyError(f"{path}: a, b, n have shapes {shapes}; expected [K, d, d], [K, d], [K]")
        for name, held in (("a", self.a), ("b", self.b), ("n", self.n)):
            if held.dtype != np.float64 or not np.isfinite(held).all():
                raise PolicyError(f"{path}: {name} must hold finite float64 numbers; the file is damaged")


def accumulate(
    observations: NDArray[np.floating[Any]],
    actions: NDArray[np.integer[Any]],
    rewards: ArrayLike,
    num_actions: int,
    weights: ArrayLike | None = None,
) -> Statistics:
    """The statistics of n rows: observations [n, d] float32 or float64, actions [n], rewards [n], weights [n] ≥ 0.

    Raises:
        PolicyError: lengths differ, or an action lies outside 0..num_actions-1.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    weights = None if weights is None else np.asarray(weights, dtype=np.float64)
    total = len(actions)
    if not total == len(observations) == len(rewards) == (total if weights is None else len(weights)):
        raise PolicyError(f"{len(observations)} observations, {total} actions, {len(rewards)} rewards: lengths differ")
    _check_range("actions", actions, num_actions)
    sums = Statistics.zeros(num_actions, observations.shape[1])
    narrow = actions.astype(np.min_scalar_type(num_actions))  # NumPy sorts 8- and 16-bit integers by radix
    for low in range(0, total, _CHUNK):
        rows = slice(low, low + _CHUNK)
        _add_rows(sums, observations[rows], narrow[rows], rewards[rows], None if weights is None else weights[rows])
    return sums


def _check_range(name: str, indices: NDArray[np.integer[Any]], count: int) -> None:
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < count:
        raise PolicyError(f"{name} span {indices.min()}..{indices.max()}; they must lie in 0..{count - 1}")


def _add_rows(
    sums: Statistics,
    observations: NDArray[np.floating[Any]],
    actions: NDArray[np.integer[Any]],
    rewards: Array,
    weights: Array | None,
) -> None:
    """Sort by action once, then one symmetric product per action; adds into `sums` in place."""
    order = np.argsort(actions, kind="stable")
    sorted_x = observations[order].astype(np.float64, copy=False)
    sorted_r = rewards[order]
    if weights is not None:
        root = np.sqrt(weights[order])  # (√w x)(√w x)ᵀ is exactly symmetric, w x xᵀ is not
        sorted_x, sorted_r = sorted_x * root[:, None], sorted_r * root
    counts = np.bincount(actions, minlength=len(sums.n))
    ends = np.cumsum(counts)
    for action in np.flatnonzero(counts):
        own = slice(ends[action] - counts[action], ends[action])
        x = sorted_x[own]
        sums.a[action] += x.T @ x
        sums.b[action] += sorted_r[own] @ x
    sums.n[:] += counts if weights is None else np.bincount(actions, weights, minlength=len(sums.n))


@dataclass(frozen=True, eq=False)
class Block:
    """The statistics of one window `(seq_low, seq_high]`, in five folds; immutable and addressed by its bytes.

    Rows are weighted 2^(-(seq_high - seq) / half_life); half_life 0 weighs every row 1.
    """

    seq_low: int
    seq_high: int
    half_life: float
    observation_version: str
    action_set_version: str
    folds: tuple[Statistics, ...]

    def save(self, path: Path) -> None:
        """Write the block as npz without pickles; equal blocks give equal bytes."""
        meta = {
            "format": np.int64(_FORMAT),
            "seq_low": np.int64(self.seq_low),
            "seq_high": np.int64(self.seq_high),
            "half_life": np.float64(self.half_life),
            "observation_version": np.str_(self.observation_version),
            "action_set_version": np.str_(self.action_set_version),
        }
        stacked = {name: np.stack([getattr(fold, name) for fold in self.folds]) for name in ("a", "b", "n")}
        _write_npz(path, meta | stacked)

    @classmethod
    def load(cls, path: Path) -> Block:
        """Raises PolicyError where the file is not what `save` wrote."""
        names = ("format", "seq_low", "seq_high", "half_life", "observation_version", "action_set_version")
        held = _read_npz(path, (*names, "a", "b", "n"))
        if int(held["format"]) != _FORMAT or not len(held["a"]) == len(held["b"]) == len(held["n"]) == NUM_FOLDS:
            raise PolicyError(f"{path}: not a block of format {_FORMAT} with {NUM_FOLDS} folds; do a full retrain")
        folds = tuple(Statistics(a, b, n) for a, b, n in zip(held["a"], held["b"], held["n"], strict=True))
        for fold in folds:
            fold._check(path)
        return cls(
            int(held["seq_low"]),
            int(held["seq_high"]),
            float(held["half_life"]),
            str(held["observation_version"]),
            str(held["action_set_version"]),
            folds,
        )


def fold_of(event_ids: Iterable[str]) -> NDArray[np.int8]:
    """The fold 0..4 of each event id: a hash of the id alone, so a row keeps its fold through every retrain."""
    digests = b"".join(
        hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8, person=b"fold").digest()
        for event_id in event_ids
    )
    return (np.frombuffer(digests, dtype="<u8") % NUM_FOLDS).astype(np.int8)


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
    observation_version: str,
    action_set_version: str,
) -> Block:
    """The block of a window from its rows, in any order; folds may be given as [n] integers or as event ids.

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
    _check_range("actions", actions, num_actions)
    _check_range("folds", folds, NUM_FOLDS)
    arms = folds.astype(np.int64) * num_actions + actions  # one pass over the rows for all folds
    sums = accumulate(observations, arms, rewards, NUM_FOLDS * num_actions, weights)
    ranges = (slice(fold * num_actions, (fold + 1) * num_actions) for fold in range(NUM_FOLDS))
    parts = tuple(Statistics(sums.a[own], sums.b[own], sums.n[own]) for own in ranges)
    return Block(low, high, half_life, observation_version, action_set_version, parts)


def combine(blocks: Sequence[Block], head: int, leave_out_fold: int | None = None) -> Statistics:
    """The weighted sum of blocks as seen from `head`, optionally without one fold (for judging on data not trained on).

    Raises:
        PolicyError: no blocks; blocks of different versions, half-lives or sizes; windows that overlap or pass `head`.
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
    weighted = (
        fold.scaled(2.0 ** (-(head - block.seq_high) / block.half_life)) if block.half_life else fold
        for block in ordered
        for index, fold in enumerate(block.folds)
        if index != leave_out_fold
    )
    return reduce(add, weighted)


def _check_pair(one: Block, other: Block) -> None:
    anew = "raise pipe_version and run startup"  # the log's older rows don't fit either
    for name, remedy in (
        ("observation_version", anew),
        ("action_set_version", anew),
        ("half_life", "do a full retrain"),
    ):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            raise PolicyError(f"blocks of {name} {mine!r} and {theirs!r} can't be added; {remedy}")
    mine, theirs = one.folds[0].b.shape, other.folds[0].b.shape
    if mine != theirs:
        raise PolicyError(f"blocks of [actions, dims] {mine} and {theirs} can't be added; {anew}")
    if other.seq_low < one.seq_high:
        raise PolicyError(
            f"windows ({one.seq_low}, {one.seq_high}] and ({other.seq_low}, {other.seq_high}] overlap: "
            "their common rows would count twice; do a full retrain"
        )


class LinUCB:
    """The solved policy: theta [K, d]; scores and means of observations [n, d] as [n, K] float64."""

    def __init__(self, statistics: Statistics, agent_alpha: float, tikhonov_weight: float) -> None:
        """Solve by Cholesky. Raises PolicyError where A + λI is not positive definite (damaged statistics)."""
        self.statistics = statistics
        self.agent_alpha = agent_alpha
        self.tikhonov_weight = tikhonov_weight
        self.num_actions, self.dim = statistics.b.shape
        try:
            lower = np.linalg.cholesky(statistics.a + tikhonov_weight * np.eye(self.dim))
        except np.linalg.LinAlgError as error:
            raise PolicyError(
                f"A + {tikhonov_weight} I is not positive definite: the statistics are damaged"
            ) from error
        inverse = np.linalg.inv(lower)  # L⁻¹: xᵀ(LLᵀ)⁻¹x = |L⁻¹x|², never negative
        self.theta: Array = np.einsum("kij,ki->kj", inverse, np.einsum("kij,kj->ki", inverse, statistics.b))
        self._theta_t = np.ascontiguousarray(self.theta.T)
        self._whiten = np.ascontiguousarray(inverse.reshape(self.num_actions * self.dim, self.dim).T)

    def means(self, observations: NDArray[np.floating[Any]]) -> Array:
        """θ·x, the expected rewards, [n, K]."""
        means: Array = observations.astype(np.float64, copy=False) @ self._theta_t
        return means

    def scores(self, observations: NDArray[np.floating[Any]]) -> Array:
        """θ·x + α √(xᵀ (A + λI)⁻¹ x), [n, K]."""
        x = observations.astype(np.float64, copy=False)
        scores: Array = x @ self._theta_t
        for low in range(0, len(x), 1024):  # the whitened rows are K·d wide: bound their memory
            rows = slice(low, low + 1024)
            whitened = (x[rows] @ self._whiten).reshape(-1, self.num_actions, self.dim)
            scores[rows] += self.agent_alpha * np.sqrt(np.einsum("nkd,nkd->nk", whitened, whitened))
        return scores


def _write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """An npz whose bytes depend on the arrays only (fixed dates, no compression), moved into place when complete."""
    partial = path.with_name(f".{path.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.asanyarray(array), version=(1, 0), allow_pickle=False)
    os.replace(partial, path)


def _read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise PolicyError(f"{path}: not an npz holding {', '.join(names)}: {' '.join(str(error).split())}") from error
