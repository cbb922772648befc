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


def read_npz(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an npz without unpickling. Raises PolicyError where it can't, or one is missing."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise PolicyError(f"{path}: not an npz holding {', '.join(names)}: {' '.join(str(error).split())}") from error
