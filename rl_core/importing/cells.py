"""What a cell of a file says, as a request would send it: lists, numbers and times may be written as text there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.feature_config import Feature

TRUE, FALSE = frozenset({"true", "yes", "1", "t", "y"}), frozenset({"false", "no", "0", "f", "n"})
NOTHING = frozenset({"", "na", "nan", "null", "none"})
"""What a missing number is written as."""
MARK = "|"
"""Between the words of a set and the numbers of a vector, in text."""


def reader_of(feature: Feature) -> Callable[[Any], Any]:
    """Choose what reads the cells of a feature; what can't be read it gives back, for the feature's own rule."""
    match feature.kind:
        case "number":
            return _number
        case "boolean":
            return _boolean
        case "set":
            return lambda cell: [word.strip() for word in cell.split(MARK)] if isinstance(cell, str) else cell
        case "vector":
            return _numbers
        case "time":
            return _time
    return str


def time_of(cell: Any) -> datetime:
    """Read a time, or a date; without an offset it is one of UTC. Raises ValueError."""
    if isinstance(cell, str):
        cell = datetime.fromisoformat(cell.removesuffix(" UTC"))  # which BigQuery writes
    elif isinstance(cell, date) and not isinstance(cell, datetime):
        cell = datetime.combine(cell, time())
    if not isinstance(cell, datetime):
        raise ValueError(f"{cell!s} has no date")
    return cell if cell.tzinfo is not None else cell.replace(tzinfo=UTC)


def is_list(cells: pa.Array) -> bool:
    """Tell whether a column is one of lists."""
    kind = cells.type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def listed(cells: pa.Array) -> pa.Array | None:
    """Return a column as lists: one of lists as it is, text with marks split by them; None: it is neither."""
    if is_list(cells):
        return cells
    if pa.types.is_string(cells.type) and pc.any(pc.match_substring(cells, MARK)).as_py():
        return pc.split_pattern(cells, MARK)
    return None


def _number(cell: Any) -> Any:
    if isinstance(cell, str):
        if cell.strip().lower() in NOTHING:
            return None
        try:
            return float(cell)
        except ValueError:
            return cell
    return float(cell) if isinstance(cell, Decimal) else cell


def _numbers(cell: Any) -> Any:
    found = cell.split(MARK) if isinstance(cell, str) else cell
    return [_number(one) for one in found] if isinstance(found, list) else found


def _boolean(cell: Any) -> Any:
    word = str(cell).strip().lower()
    return True if word in TRUE else False if word in FALSE else cell


def _time(cell: Any) -> Any:
    try:
        return time_of(cell).isoformat()
    except ValueError:
        return cell if isinstance(cell, str) else str(cell)
