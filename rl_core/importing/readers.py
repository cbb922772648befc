"""Readers of the formats that a log comes in: each yields parts with the mapped columns and the line of each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rl_core.errors import ConfigError, DataError
from rl_core.importing import dsjson, obp
from rl_core.importing.mapping import Mapping, at

PART_ROWS = 100_000
_BLOCK_BYTES = 4 << 20  # of a CSV: some 100,000 rows
_SUFFIXES = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".dsjson": "dsjson",
    ".npz": "npz",
}
FORMATS = tuple(dict.fromkeys(_SUFFIXES.values()))


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a file: columns by name, the line of each row [n], and lines that could not be read, with why."""

    columns: dict[str, pa.Array]
    lines: NDArray[np.int64]
    unreadable: list[tuple[int, str]] = field(default_factory=list)


def format_of(path: Path, given: str | None) -> str:
    """Return the format: the given one, else by the file's ending. Raises ConfigError, DataError."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if (found := given or _SUFFIXES.get(path.suffix)) is None:
        raise ConfigError(f"{path}: its ending tells no format; name it with --format ({', '.join(FORMATS)})")
    return found


def read(path: Path, kind: str, mapping: Mapping, actions: Sequence[str]) -> Iterator[Part]:
    """Yield the file part by part; `actions` are the bandit's, for formats that number them.

    Raises DataError naming the file, and what is wrong with it as a whole.
    """
    try:
        if kind == "csv":
            yield from _csv(path, mapping)
        elif kind == "parquet":
            yield from _parquet(path, mapping)
        elif kind == "npz":
            yield from _npz(path, mapping)
        elif kind == "dsjson":
            yield from _lines_of(path, mapping.columns, lambda said: dsjson.row(said, mapping, actions))
        else:
            yield from _lines_of(path, mapping.columns, lambda said: [at(said, column) for column in mapping.columns])
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as {kind}: {' '.join(str(error).split())}") from error


def _csv(path: Path, mapping: Mapping) -> Iterator[Part]:
    """Every value as text: a number that is none is a bad row, not a bad file."""
    from pyarrow import csv

    skipped: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        skipped.append((row.number, f"it has {row.actual_columns} columns, the header {row.expected_columns}"))
        return "skip"

    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty")
    alike = csv.ParseOptions(invalid_row_handler=lambda row: "skip", newlines_in_values=True)
    with csv.open_csv(path, csv.ReadOptions(use_threads=False), alike) as head:
        _check_columns(path, mapping, head.schema.names)
    reader = csv.open_csv(
        path,
        csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        csv.ParseOptions(invalid_row_handler=skip, newlines_in_values=True),
        csv.ConvertOptions(
            column_types=dict.fromkeys(mapping.columns, pa.string()),
            include_columns=mapping.columns,
            strings_can_be_null=True,
            null_values=[""],  # an action may be called NA
        ),
    )
    line, told = 2, 0  # the header is line 1
    for batch in reader:
        bad = [number for number, _ in skipped if number >= line]
        around = np.setdiff1d(np.arange(line, line + batch.num_rows + len(bad)), bad)
        lines = around[: batch.num_rows]
        line = int(lines[-1]) + 1 if len(lines) else line
        yield Part(dict(zip(mapping.columns, batch.columns, strict=True)), lines, skipped[told:])
        told = len(skipped)


def _parquet(path: Path, mapping: Mapping) -> Iterator[Part]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        _check_columns(path, mapping, file.schema_arrow.names)
        row = 0
        for batch in file.iter_batches(PART_ROWS, columns=mapping.columns):
            lines = np.arange(row + 1, row + 1 + batch.num_rows)
            yield Part({name: batch.column(name) for name in mapping.columns}, lines)
            row += batch.num_rows


def _npz(path: Path, mapping: Mapping) -> Iterator[Part]:
    held = obp.columns(path)
    _check_columns(path, mapping, list(held))
    for low in range(0, len(held["action"]), PART_ROWS):
        part = {name: held[name].slice(low, PART_ROWS) for name in mapping.columns}
        yield Part(part, np.arange(low + 1, low + 1 + len(part[mapping.action])))


def _lines_of(path: Path, columns: list[str], row_of: Callable[[Any], list[Any]]) -> Iterator[Part]:
    import orjson

    rows: list[list[Any]] = []
    lines: list[int] = []
    bad: list[tuple[int, str]] = []

    def part() -> Part:
        values = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in columns]
        return Part(dict(zip(columns, map(_array, values), strict=True)), np.asarray(lines, np.int64), list(bad))

    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                said = orjson.loads(text)
                if not isinstance(said, dict):
                    raise ValueError("it is no JSON object")
                rows.append(row_of(said))
                lines.append(number)
            except ValueError as error:
                bad.append((number, f"not a row: {error}"))
            if len(rows) + len(bad) >= PART_ROWS:
                yield part()
                rows, lines, bad = [], [], []
    yield part()


def _array(values: list[Any]) -> pa.Array:
    """Values of one kind as they are; of several kinds as text, which the rows' check looks through."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        if 2 * sum(isinstance(value, list) for value in values) > len(values):
            return pa.array([_texts(value) for value in values], pa.list_(pa.string()))
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _texts(value: Any) -> list[str] | None:
    return [str(one) for one in value] if isinstance(value, list) else None


def _check_columns(path: Path, mapping: Mapping, names: list[str]) -> None:
    missing = [column for column in mapping.columns if column not in names]
    if missing:
        there = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        raise DataError(
            f"{path}: has no column {missing[0]!r}; it has {there}. Say with --map FIELD=COLUMN what they mean"
        )
