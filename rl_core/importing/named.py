"""Named features of the rows of a file, as the server would have logged them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rl_core.errors import SchemaError
from rl_core.feature_config import Feature, Features
from rl_core.features.vectorise import Vectoriser, canonical
from rl_core.importing.readers import Part

_TRUE, _FALSE = frozenset({"true", "yes", "1", "t", "y"}), frozenset({"false", "no", "0", "f", "n"})


def of(part: Part, features: Features, columns: Sequence[str]) -> tuple[pa.Array, dict[str, NDArray[np.bool_]]]:
    """Return the features of each row as a JSON object, [n], and by reason the rows [n] that have none.

    In text, as a CSV is: words of a set are parted by `|`, numbers of a vector too; an empty cell is a missing value.
    """
    vectoriser, wrong = Vectoriser(features), dict[str, NDArray[np.bool_]]()
    read = [_reader(feature) for feature in features.values()]
    values = [part.columns[column].to_pylist() for column in columns]
    texts: list[str] = []
    for row, cells in enumerate(zip(*values, strict=True)):
        said = {
            name: one(cell) for name, one, cell in zip(features, read, cells, strict=True) if cell not in (None, "")
        }
        try:
            vectoriser.row(said, "features")
            texts.append(canonical(said))
        except SchemaError as error:
            texts.append("{}")
            place, _, rule = str(error).partition(";")
            reason = f"{place.partition(' is ')[0]}:{rule}"  # without the value: one reason for all that break the rule
            wrong.setdefault(reason, np.zeros(len(part.lines), np.bool_))[row] = True
    return pa.array(texts, pa.string()), wrong


def _reader(feature: Feature) -> Callable[[Any], Any]:
    """What makes of a cell what a request would send; of one that can't be read, the cell itself."""
    kind = feature.kind
    if kind == "number":
        return lambda cell: _number(cell) if isinstance(cell, str) else cell
    if kind == "boolean":
        return _boolean
    if kind == "set":
        return lambda cell: [word.strip() for word in cell.split("|")] if isinstance(cell, str) else cell
    if kind == "vector":
        return lambda cell: [_number(one) for one in cell.split("|")] if isinstance(cell, str) else cell
    if kind == "time":
        return lambda cell: cell.isoformat() if hasattr(cell, "isoformat") else cell
    return str


def _number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


def _boolean(cell: Any) -> Any:
    word = str(cell).strip().lower()
    return True if word in _TRUE else False if word in _FALSE else cell
