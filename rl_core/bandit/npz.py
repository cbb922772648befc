"""Arrays on disk: npz files without pickles; equal arrays give equal bytes, so that a file can be addressed by them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_core.errors import PolicyError
from rl_core.files import replacing


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an npz whose bytes depend on the arrays only: fixed dates, no compression, in place when complete."""
    with replacing(path) as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.asanyarray(array), version=(1, 0), allow_pickle=False)


def halved(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper triangles of symmetric matrices [..., d, d] as [..., d (d + 1) / 2]."""
    rows, columns = np.triu_indices(squares.shape[-1])
    half: NDArray[np.float64] = squares[..., rows, columns]
    return half


def whole(half: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the symmetric matrices that `halved` took apart. Raises ValueError where they are none."""
    size = (int((8 * half.shape[-1] + 1) ** 0.5) - 1) // 2
    rows, columns = np.triu_indices(size)
    if len(rows) != half.shape[-1]:
        raise ValueError(f"{half.shape[-1]} numbers are no upper triangle")
    squares = np.empty((*half.shape[:-1], size, size))
    squares[..., rows, columns] = half
    squares[..., columns, rows] = half
    return squares


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an npz without unpickling. Raises PolicyError where it can't, or one is missing."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise _no_npz(path, names, error) from error


def read_sums(path: Path, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Read a, b, n and the arrays named of an npz; a by halves, or whole as it used to be. Raises PolicyError."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            found = {name: held[name] for name in ("b", "n", *names)}
            return found | {"a": whole(held["half"]) if "half" in held else held["a"]}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise _no_npz(path, ("a", "b", "n", *names), error) from error


def _no_npz(path: Path, names: Sequence[str], error: Exception) -> PolicyError:
    return PolicyError(f"{path}: not an npz holding {', '.join(names)}: {' '.join(str(error).split())}")
