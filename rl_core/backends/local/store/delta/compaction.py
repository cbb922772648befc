"""Chooses which files of a Delta table to merge, such that a row is rewritten only a few times in its life."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rl_core.backends.local.store.delta.files import DataFile

SEALED = 16 * 1024 * 1024  # bytes: a file as large is left alone
_MIDDLE = 1024 * 1024
_MOST_MIDDLE = 8


def mergeable(files: Sequence[DataFile], by_producer: bool) -> Iterator[list[DataFile]]:
    """Yield groups of neighbouring files to make one file of each.

    Small files become a middle one; eight middle ones, or as many as are enough, a sealed one. Readers of a log skip
    what a producer wrote before some offset: files of two producers are not mixed.
    """
    for (sealed, _), group in groupby(files, lambda file: (_sealed(file), file.only("producer") if by_producer else 0)):
        if sealed:
            continue
        run = list(group)
        middle = [i for i, file in enumerate(run) if file.size >= _MIDDLE]
        if sum(file.size for file in run) < SEALED and len(middle) < _MOST_MIDDLE:
            run = run[middle[-1] + 1 :] if middle else run
        yield from _parts(run)


def _sealed(file: DataFile) -> bool:
    return file.size >= SEALED


def _parts(files: Sequence[DataFile]) -> Iterator[list[DataFile]]:
    part: list[DataFile] = []
    for file in files:
        part.append(file)
        if sum(one.size for one in part) >= SEALED:
            yield part
            part = []
    if len(part) > 1:
        yield part
