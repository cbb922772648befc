"""Arrays of Open Bandit Pipeline as columns: what its `obtain_batch_bandit_feedback()` returns, saved with numpy.savez.

Of the n rounds of a feedback it reads action [n] (numbers below n_actions), reward [n], pscore [n], context [n, d] and,
where there are any, position [n]. https://zr-obp.readthedocs.io
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rl_core.errors import DataError
from rl_core.importing.mapping import Mapping

DEFAULT = Mapping("action", "pscore", "reward", ("context",))
"""What the arrays' own names say."""
_SAVE = "np.savez(path, **{name: array for name, array in feedback.items() if array is not None})"


def columns(path: Path) -> dict[str, pa.Array]:
    """Read the columns action (as text), reward, pscore, context (lists) and position. Raises DataError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays = {name: held[name] for name in ("action", "reward", "pscore", "context")}
            position = _position(held)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        said = " ".join(str(error).split())
        raise DataError(f"{path}: not the arrays of a bandit feedback: {said}; save it with {_SAVE}") from error
    action, context = arrays["action"], arrays["context"]
    one_each = (action, arrays["reward"], arrays["pscore"])
    if context.ndim != 2 or any(array.shape != context.shape[:1] for array in one_each):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise DataError(f"{path}: one row is a round with one action: context [n, d], the others [n]; got {shapes}")
    if action.dtype.kind not in "iu":
        raise DataError(f"{path}: action holds {action.dtype}; it numbers the actions from 0")
    flat = pa.array(context.astype(np.float64).ravel())
    found = {
        "action": pa.array(action.astype(str).tolist(), pa.string()),
        "reward": pa.array(arrays["reward"].astype(np.float64)),
        "pscore": pa.array(arrays["pscore"].astype(np.float64)),
        "context": pa.FixedSizeListArray.from_arrays(flat, context.shape[1]),
    }
    return found if position is None or len(position) != len(action) else found | {"position": pa.array(position)}


def action_ids(path: Path) -> list[str]:
    """Return every action's id, its number as text, also of those that no round has; [] where nobody says how many."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
        return [str(number) for number in range(int(held["n_actions"]))] if "n_actions" in held else []


def _position(held: Any) -> NDArray[np.int64] | None:
    """None is saved as an object, which is not read."""
    try:
        position = held.get("position")
    except ValueError:
        return None
    return position.astype(np.int64) if position is not None and position.dtype.kind in "iu" else None
