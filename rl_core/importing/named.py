"""Named features of the rows of a file, as the server would have logged them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rl_core.errors import SchemaError
from rl_core.feature_config import Features
from rl_core.features.vectorise import Vectoriser, canonical
from rl_core.importing.cells import reader_of
from rl_core.importing.readers import Part


def of(part: Part, features: Features, columns: Sequence[str]) -> tuple[pa.Array, dict[str, NDArray[np.bool_]]]:
    """Return the features of each row as a JSON object, [n], and by reason the rows [n] that have none.

    An empty cell is a missing value; how text is read: `cells.py`.
    """
    vectoriser, wrong = Vectoriser(features), dict[str, NDArray[np.bool_]]()
    read = [reader_of(feature) for feature in features.values()]
    values = [part.columns[column].to_pylist() for column in columns]
    texts: list[str] = []
    for row, cells in enumerate(zip(*values, strict=True)):
        said = {
            name: value
            for name, one, cell in zip(features, read, cells, strict=True)
            if cell not in (None, "") and (value := one(cell)) is not None
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
