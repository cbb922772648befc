"""A dataset: windows of interactions as TFRecord shards of TF-Agents trajectories, grouped for the trainer.

    dataset.json                                     windows, versions, rows and crc32c of each shard
    quarantine.parquet                               where there are any: rows that break a rule, and which
    window-<low>-<high>.part-<i>.fold-<f>.tfrecord   rows of one fold, by action, then by seq

`rl_core.dataset.tfrecord` holds the bytes of a row; any code that knows the trajectory spec of a `LinearUCBAgent` reads
the shards with `tf_agents.utils.example_encoding_dataset.load_tfrecord_dataset`. Equal rows give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from rl_core.backends.contracts.store import Window
from rl_core.bandit.blocks import NUM_FOLDS
from rl_core.dataset.tfrecord import Layout, Rows
from rl_core.errors import DataError
from rl_core.features.encoder import Encoder
from rl_core.files import replacing
from rl_core.problem_config import Problem

__all__ = ["DATASET", "Dataset", "Index", "Part", "Rows", "Shard", "write"]

DATASET = "dataset.json"


@dataclass(frozen=True, eq=False)
class Part:
    """Consecutive rows of a window with the fold [n] of each; what the ingester hands to `write`."""

    window: Window
    rows: Rows
    folds: NDArray[np.int8]


class Shard(BaseModel):
    """One TFRecord file of a dataset: the rows of one window and fold, and the crc32c of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str
    window: Window
    fold: int
    rows: int
    crc32c: int


class Index(BaseModel):
    """The content of `dataset.json`: what the shards hold, and how many rows broke which rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[2] = 2
    encoder: Encoder
    """What made the features of the raw observations: a record's `observation` holds its result."""
    observation_version: str
    actions: tuple[str, ...]
    """The id of each action index in the records."""
    rewards: tuple[float, float, float]
    """reward_min, reward_max and reward_default."""
    windows: tuple[Window, ...]
    shards: tuple[Shard, ...]
    quarantined: dict[str, int] = {}
    """How many rows of the windows lie in quarantine.parquet, by the rule that they break."""
    unjudged: int = 0
    """How many of the rows no policy is judged on, since nobody knows what could have been chosen: none is eligible."""


@dataclass(frozen=True)
class Dataset:
    """A dataset folder; the trainer and the evaluator read it."""

    path: Path
    index: Index

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the dataset in a folder. Raises DataError where there is none."""
        file = path / DATASET
        try:
            return cls(path, Index.model_validate_json(file.read_bytes()))
        except OSError as error:
            raise DataError(f"{file}: can't be read ({error.strerror}); run the ingester again") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the text"
            raise DataError(f"{file}: {place}: {first['msg']}; run the ingester again") from error

    @property
    def windows(self) -> tuple[Window, ...]:
        return self.index.windows

    def count(self, window: Window | None = None) -> int:
        """Count the rows of a window, None: of all."""
        return sum(shard.rows for shard in self.index.shards if window in (None, shard.window))

    def read(self, window: Window | None = None, fold: int | None = None) -> Iterator[Rows]:
        """Yield the rows of a window and a fold (None: of all), one shard at a time.

        Raises:
            DataError: a shard is missing, damaged, or of another layout.
        """
        layout = Layout(self.index.encoder.width, len(self.index.actions))
        for shard in self.index.shards:
            if window in (None, shard.window) and fold in (None, shard.fold):
                yield _read(self.path / shard.file, shard, layout)


def write(
    out: Path,
    problem: Problem,
    windows: Sequence[Window],
    parts: Iterable[Part],
    quarantined: Mapping[str, int] | None = None,
    *,
    actions: Sequence[str] | None = None,
    encoder: Callable[[], Encoder] | None = None,
) -> Index:
    """Write shards and, last of all, `dataset.json` into the folder `out`; memory holds one part at a time.

    Args:
        quarantined: looked at when all parts were taken.
        actions: the id of each action index; None: the problem's.
        encoder: tells what made the features, when all parts were taken; None: one without ranges.
    """
    out.mkdir(parents=True, exist_ok=True)
    actions = problem.actions if actions is None else actions
    layout = Layout(Encoder.of(problem).width, len(actions))
    shards, unjudged = [], 0
    for number, part in enumerate(parts):
        unjudged += int((~part.rows.eligible.any(axis=1)).sum())
        for fold, own in enumerate(_by_action(part, len(actions))):
            if len(own):
                low, high = part.window
                name = f"window-{low}-{high}.part-{number}.fold-{fold}.tfrecord"
                crc = _write(out / name, layout.encode(part.rows, own))
                shards.append(Shard(file=name, window=part.window, fold=fold, rows=len(own), crc32c=crc))
    index = Index(
        encoder=encoder() if encoder else Encoder.of(problem),
        observation_version=problem.observation_version,
        actions=tuple(actions),
        rewards=(problem.reward_min, problem.reward_max, problem.reward_default),
        windows=tuple(windows),
        shards=tuple(shards),
        quarantined=dict(sorted((quarantined or {}).items())),
        unjudged=unjudged,
    )
    _write(out / DATASET, [index.model_dump_json(indent=1).encode()])
    return index


def _by_action(part: Part, num_actions: int) -> list[NDArray[np.int64]]:
    """Return the positions of each fold's rows, by action, then by seq."""
    place = part.folds.astype(np.int64) * num_actions + part.rows.action
    order = np.argsort(place.astype(np.min_scalar_type(NUM_FOLDS * num_actions)), kind="stable")
    return np.split(order, np.cumsum(np.bincount(part.folds, minlength=NUM_FOLDS))[:-1])


def _write(file: Path, pieces: Iterable[bytes]) -> int:
    """Write the pieces and move the file into place when it is complete; returns the crc32c of all."""
    crc = 0
    with replacing(file) as stream:
        for piece in pieces:
            crc = google_crc32c.extend(crc, piece)
            stream.write(piece)
    return crc


def _read(file: Path, shard: Shard, layout: Layout) -> Rows:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: can't be read ({error.strerror}); run the ingester again") from error
    if (crc := google_crc32c.value(content)) != shard.crc32c:
        raise DataError(
            f"{file}: crc32c is {crc:08x}, {DATASET} says {shard.crc32c:08x} ({len(content)} bytes); "
            "the file was damaged: run the ingester again"
        )
    try:
        rows = layout.decode(content)
    except ValueError as error:
        raise DataError(f"{file}: {error}; run the ingester again") from error
    if len(rows) != shard.rows:
        raise DataError(f"{file}: holds {len(rows)} rows, {DATASET} says {shard.rows}; run the ingester again")
    return rows
