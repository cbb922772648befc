"""Of which kind a column is as a named feature, with its range or its values as found; or why it is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rl_core.importing.cells import FALSE, TRUE, listed, time_of
from rl_core.importing.rows import numbers
from rl_core.starting.table import Column

FEW = 20
"""So many values has a category at most; a column of more is hashed."""
_WORDS = 50  # of a set are declared, the most frequent
_BUCKETS = 64
_NONE = "none"  # a value of its own for what has none
_LONGEST = 4096  # numbers of a vector
_TIMES = ("time", "timestamp", "date", "datetime", "ts")
_BOOLEANS = (TRUE | FALSE) - {"0", "1"}


@dataclass(frozen=True)
class Kind:
    """A feature as the YAML has it, without its name, and why it is of this kind."""

    definition: dict[str, Any]
    why: str


def kind_of(column: Column) -> Kind | str:
    """Choose the kind of a column; a word that says why, where it can't be a feature."""
    cells, name = column.cells, column.name.strip().lower()
    if not name or "," in name:
        return "it has no name" if not name else "a name with a comma can't be said in --map"
    if cells.null_count == len(cells):
        return "every cell is empty"
    if column.is_time:
        return _time(column)
    if (lists := listed(cells)) is not None and (found := _listed(column, lists)) is not None:
        return found
    if pa.types.is_nested(cells.type) or not column.counts:
        return "objects, or lists of lists"
    if len(column.counts) == 1 and not column.empty:
        return f"nothing but {next(iter(column.counts))!r}"
    if pa.types.is_boolean(cells.type) or {value.strip().lower() for value in column.counts} <= _BOOLEANS:
        return _boolean(column)
    if name == "id" or name.endswith("_id"):
        return _words(column) if len(column.counts) <= FEW else f"an id by its name, {len(column.counts):,} values"
    if column.is_number:
        return _number(column)
    if np.isfinite(column.numbers[0]).mean() > 0.5:
        return str(column.stray)
    return _words(column)


def _number(column: Column) -> Kind | str:
    values = column.numbers[0][column.numbers[1]]
    low, high = float(values.min()), float(values.max())
    if column.name.strip().lower() in _TIMES:
        return "a time, by its name, as a number; write ISO 8601, like 2026-01-31T12:00:00Z"
    if low == high:
        return f"{low:g} wherever it is not empty"
    if len(column.counts) > len(values) / 2 and len(values) > FEW and (np.diff(values) >= 0).all():
        return "it grows from row to row, like a counter or a clock"
    definition: dict[str, Any] = {"kind": "number"}
    usual_low, usual_high = np.quantile(values, [0.01, 0.99])
    if high - low <= 10 * (usual_high - usual_low):
        definition |= {"min": plain(low), "max": plain(high)}
        said = f"{low:g} to {high:g} seen"
    else:
        said = f"{low:g} to {high:g} seen, mostly {usual_low:g} to {usual_high:g}: its scale is learnt"
    middle = float(np.median(values))
    return _missing(definition, said, column, plain(float(f"{middle:.6g}")), f"get {middle:.6g}, the middle one")


def _boolean(column: Column) -> Kind:
    said = {value.strip().lower(): count for value, count in column.counts.items()}
    usual = next(iter(said)) in TRUE
    return _missing({"kind": "boolean"}, f"{' and '.join(said)} seen", column, usual, "get the more frequent one")


def _words(column: Column) -> Kind | str:
    """Text: one of few, or one of many; what is another one nearly everywhere tells nothing."""
    values, given = list(column.counts), len(column.cells) - column.empty
    if len(values) == len(column.cells) > FEW:
        return "another one in every row, like an id: --event-id takes it"
    if len(values) > given / 2:
        return f"{len(values):,} values in {given:,} rows, like an id or free text"
    definition: dict[str, Any]
    if len(values) <= FEW:
        none = [_NONE] if column.empty and _NONE not in values else []
        definition = {"kind": "category", "values": [*values, *none]}
        said = f"{len(values)} {'value' if len(values) == 1 else 'values'} seen"
    else:
        definition, said = {"kind": "hashed", "buckets": _BUCKETS}, f"{len(values):,} values seen"
    return _missing(definition, said, column, _NONE, f"get {_NONE!r}")


def _time(column: Column) -> Kind | str:
    try:
        times = [time_of(cell) for cell in pc.drop_null(column.cells).to_pylist()]
    except ValueError as error:
        return f"a time, but {error}"
    said = f"{min(times):%Y-%m-%d} to {max(times):%Y-%m-%d} seen"
    if any(_naive(cell) for cell in pc.drop_null(column.cells).to_pylist()):
        said += ", without an offset: taken for UTC"
    middle = sorted(times)[len(times) // 2].astimezone(UTC)
    return _missing({"kind": "time"}, said, column, middle.isoformat(timespec="seconds"), "get the middle one")


def _naive(cell: Any) -> bool:
    if isinstance(cell, str):
        return not cell.endswith(" UTC") and datetime.fromisoformat(cell).tzinfo is None
    return getattr(cell, "tzinfo", None) is None


def _listed(column: Column, lists: pa.Array) -> Kind | str | None:
    """A set of words or a vector of numbers; None: text that happens to hold the mark between words."""
    flat = pc.list_flatten(lists)
    text = pa.types.is_string(column.cells.type)
    if pa.types.is_nested(flat.type) or (text and not len(flat)):
        return None
    if len(flat) and np.isfinite(numbers(flat)[0]).all():
        lengths = set(pc.drop_null(pc.list_value_length(lists)).to_pylist())
        if len(lengths) > 1 or not 0 < min(lengths) <= _LONGEST:
            return None if text else f"lists of {min(lengths)} to {max(lengths)} numbers; a vector has as many in each"
        dim = lengths.pop()
        return _missing({"kind": "vector", "dim": dim}, f"lists of {dim} numbers", column, "zeros", "get zeros")
    if not pa.types.is_string(flat.type):
        return "lists, but neither of words nor of numbers"
    words = Counter(word.strip() for word in flat.to_pylist() if word and word.strip())
    if not words or (text and len(words) > min(_WORDS, len(column.counts))):
        return None if text else "every list is empty"
    values = [word for word, _ in words.most_common(_WORDS)]
    some = f", the {_WORDS} most frequent of {len(words):,}" if len(words) > _WORDS else ""
    return Kind({"kind": "set", "values": values}, f"lists of words, {len(values)} seen{some}")


def _missing(definition: dict[str, Any], said: str, column: Column, stands: Any, told: str) -> Kind:
    """Declare what stands for empty cells, where there are some."""
    if not column.empty:
        return Kind(definition, said)
    rows = "row has" if column.empty == 1 else "rows have"
    return Kind(definition | {"missing": stands}, f"{said}; {column.empty:,} {rows} none and {told}")


def plain(value: float) -> int | float:
    """Return 3 for 3.0."""
    return int(value) if value.is_integer() and abs(value) < 1e15 else value
