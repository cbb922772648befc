"""A file as columns, whole: what a person has who has never heard of a bandit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rl_core.config import Validation
from rl_core.errors import DataError
from rl_core.importing import obp
from rl_core.importing.rows import numbers

SHARE = float(Validation().max_quarantined_share)
"""Of the rows may be bad; with more of them `banditloop import` would take none."""
_DECIMAL_COMMA = r"^\s*-?(\d+|\d{1,3}(\.\d{3})+),\d+\s*$"


@dataclass(frozen=True, eq=False)
class Column:
    """One column of n rows; text, where it comes from a CSV. `known` are values that it may have, seen or not."""

    name: str
    cells: pa.Array
    known: tuple[str, ...] = ()

    @cached_property
    def numbers(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Its numbers [n], NaN where a cell holds none, and where a cell holds anything [n]."""
        return numbers(self.cells)

    @cached_property
    def stray(self) -> str | None:
        """Say which cell is the first that holds something but no number; None: there is none."""
        values, given = self.numbers
        rows = np.flatnonzero(given & ~np.isfinite(values))
        return f"{self.cells[int(rows[0])].as_py()!r} (row {rows[0] + 1}) is no number" if len(rows) else None

    @cached_property
    def empty(self) -> int:
        """How many cells hold nothing; of numbers, words for it too."""
        return int(np.count_nonzero(~self.numbers[1])) if self.is_number else int(self.cells.null_count)

    @property
    def is_number(self) -> bool:
        return self.stray is None and bool(self.numbers[1].any())

    @property
    def is_time(self) -> bool:
        kind = self.cells.type
        if not pa.types.is_string(kind):
            return bool(pa.types.is_temporal(kind))
        dates = pc.match_substring_regex(self.cells, r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d\S*)?( UTC)?$")
        return self.cells.null_count < len(self.cells) and pc.all(dates).as_py() is True

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many rows have which value, as text, the most frequent first; of lists and objects: {}."""
        if pa.types.is_nested(self.cells.type):
            return {}
        found = pc.value_counts(pc.drop_null(self.cells.cast(pa.string()))).to_pylist()
        counts = {one["values"]: one["counts"] for one in sorted(found, key=lambda one: -one["counts"])}
        return dict.fromkeys(self.known, 0) | counts


def read(path: Path) -> dict[str, Column]:
    """Read a CSV, Parquet, JSON lines or npz file. Raises DataError naming the file and what is wrong."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    if (reader := _READERS.get(path.suffix)) is None:
        known = ", ".join(_READERS)
        raise DataError(f"{path}: ends with none of {known}; or leave out --from, and fill in the YAML that is written")
    try:
        table = reader(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as {path.suffix[1:]}: {' '.join(str(error).split())}") from error
    if len(table) == 0:
        raise DataError(f"{path}: holds no row")
    names = table.column_names
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: has two columns {twice[0]!r}; give each a name of its own")
    columns = {name: Column(name, _plain(table[name].combine_chunks())) for name in names}
    if path.suffix == ".npz":
        columns["action"] = replace(columns["action"], known=tuple(obp.action_ids(path)))
    for column in columns.values():
        _refuse_decimal_commas(path, column)
    return columns


def _csv(path: Path) -> pa.Table:
    """Every cell as text, as the import takes it."""
    from pyarrow import csv

    bad: list[Any] = []

    def skip(row: Any) -> str:
        bad.append(row)
        return "skip"

    one, parse = csv.ReadOptions(use_threads=False), csv.ParseOptions(newlines_in_values=True)
    parse.invalid_row_handler = lambda row: "skip"
    with csv.open_csv(path, one, parse) as head:
        names = head.schema.names
    for mark in ";\t":
        if len(names) == 1 and mark in names[0]:
            raise DataError(f"{path}: its columns are parted by {mark!r}; export it with commas between them")
    texts = dict.fromkeys(names, pa.string())
    convert = csv.ConvertOptions(column_types=texts, strings_can_be_null=True, null_values=[""])
    parse.invalid_row_handler = skip
    table = csv.read_csv(path, one, parse, convert)
    if len(bad) > SHARE * (len(table) + len(bad)):
        raise DataError(
            f"{path}: line {bad[0].number} has {bad[0].actual_columns} columns, the header {bad[0].expected_columns}, "
            f"and {len(bad):,} of {len(table) + len(bad):,} rows are such; write a cell with a comma in quotes, and "
            "numbers with a decimal point"
        )
    return table


def _parquet(path: Path) -> pa.Table:
    from pyarrow import parquet

    return parquet.ParquetFile(path).read()


def _jsonl(path: Path) -> pa.Table:
    """Objects within a row become columns, `user.age`, as the import reaches them."""
    from pyarrow import json

    table = json.read_json(path)
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    for place, kind in enumerate(table.schema.types):
        if pa.types.is_timestamp(kind):  # their offsets were reckoned in
            utc = table.column(place).cast(pa.timestamp(kind.unit, "UTC"))
            table = table.set_column(place, table.schema.names[place], utc)
    return table


def _npz(path: Path) -> pa.Table:
    return pa.table(obp.columns(path))


_READERS = {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl, ".ndjson": _jsonl, ".npz": _npz}


def _plain(cells: pa.Array) -> pa.Array:
    """Text as one type, whichever of Arrow's the file has."""
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    return cells if kind == cells.type else cells.cast(kind)


def _refuse_decimal_commas(path: Path, column: Column) -> None:
    """A column whose cells are numbers once 3,50 is one."""
    if column.stray is None or not pa.types.is_string(column.cells.type):
        return
    values, given = column.numbers
    commas = np.asarray(pc.fill_null(pc.match_substring_regex(column.cells, _DECIMAL_COMMA), False))
    if not (given & ~np.isfinite(values) & ~commas).any():
        row = int(np.flatnonzero(commas)[0])
        raise DataError(
            f"{path}: column {column.name!r} holds {column.cells[row].as_py()!r} (row {row + 1}); a number is written "
            "with a decimal point, 3.50 and not 3,50, and without thousands' marks: export it so"
        )
