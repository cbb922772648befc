"""The ratings: a given file, the downloaded MovieLens 100K, or a synthetic set of the same shape.

The first answer under a BANDIT_HOME is kept: observations of one data set mean nothing in another, so a bandit that
began offline stays with its synthetic world until `$BANDIT_HOME/data` is deleted.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from rl_core.config import Settings
from rl_core.errors import DataError
from rl_core.movielens.download import URL, download, is_movielens_100k
from rl_core.movielens.synthetic import write_synthetic

Data = Literal["movielens-100k", "synthetic", "file"]

_log = logging.getLogger(__name__)
_LINE = re.compile(rb"^([1-9]\d{0,8})\t([1-9]\d{0,8})\t([1-5])\t(\d{1,18})$", re.MULTILINE)
_BLANK_END = re.compile(rb"(\n[ \t]*)+\Z|\A\s+\Z")
_BOM = b"\xef\xbb\xbf"  # what some editors put before UTF-8
_MAX_CELLS = 100_000_000  # a dense float64 matrix of 0.8 GB


def find_ratings(settings: Settings, url: str = URL) -> tuple[Path, Data]:
    """Find the ratings file and its kind: of BANDIT_MOVIELENS_DIR, else of BANDIT_HOME, downloaded, or synthetic.

    Raises:
        DataError: BANDIT_MOVIELENS_DIR is set and holds no `u.data`.
    """
    if settings.movielens_dir is not None:
        path = settings.movielens_dir
        path = path / "u.data" if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"{path}: no such file; BANDIT_MOVIELENS_DIR must be a folder holding u.data, or the file")
        return path, "movielens-100k" if is_movielens_100k(_read(path)) else "file"
    real, synthetic = settings.home / "data/ml-100k/u.data", synthetic_path(settings.home)
    if real.is_file():
        return real, "movielens-100k"
    if synthetic.is_file():
        return synthetic, "synthetic"
    try:
        download(real, url)
    except DataError as error:
        _log.warning("%s; using synthetic ratings (delete %s to try again)", error, synthetic.parent)
        write_synthetic(synthetic)
        return synthetic, "synthetic"
    return real, "movielens-100k"


def ratings_digest(settings: Settings) -> str:
    """Hash the ratings file that `find_ratings` would find without a download (md5); "none" where there is none yet.

    Part of the pipeline cache's key: what was generated from other ratings is no hit.
    """
    given = settings.movielens_dir
    candidates = (
        [given / "u.data", given] if given else [settings.home / "data/ml-100k/u.data", synthetic_path(settings.home)]
    )
    found = next((path for path in candidates if path.is_file()), None)
    return hashlib.md5(_read(found), usedforsecurity=False).hexdigest() if found else "none"


def synthetic_path(home: Path) -> Path:
    """Say where the synthetic ratings of a BANDIT_HOME lie; a file put there in advance keeps it off the network."""
    return home / "data/synthetic/u.data"


def load_ratings(path: Path) -> NDArray[np.float64]:
    """Read a file in u.data format as a matrix [highest user id, highest item id]; 0: unrated; the last of repeats.

    Blank lines at its end are read over.

    Raises:
        DataError: the file can't be read, or a line is not `user<TAB>item<TAB>rating 1..5<TAB>timestamp`.
    """
    content = _BLANK_END.sub(b"", _read(path).removeprefix(_BOM).replace(b"\r\n", b"\n"))
    if not content:
        raise DataError(f"{path}: is empty; expected lines of user, item, rating and timestamp, separated by tabs")
    rows = _LINE.findall(content)
    if len(rows) != content.count(b"\n") + 1:
        _name_first_fault(path, content)
    users, items, stars = np.array([row[:3] for row in rows], dtype="S9").astype(np.int64).T
    shape = (int(users.max()), int(items.max()))
    if shape[0] * shape[1] > _MAX_CELLS:
        raise DataError(
            f"{path}: user ids to {shape[0]} and item ids to {shape[1]} need {shape[0] * shape[1]:.1e} cells; "
            f"at most {_MAX_CELLS:.0e} fit: renumber the ids or take a part of the file"
        )
    ratings = np.zeros(shape)
    ratings[users - 1, items - 1] = stars
    return ratings


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error


def _name_first_fault(path: Path, content: bytes) -> NoReturn:
    number, line = next((n, line) for n, line in enumerate(content.split(b"\n"), 1) if not _LINE.fullmatch(line))
    raise DataError(f"{path}: line {number}: expected {_expected(line)}, got {_shown(line)}")


def _expected(line: bytes) -> str:
    fields = line.split(b"\t")
    if b"\r" in line:
        return "lines that end with a newline, not with a carriage return alone"
    if len(fields) != 4:
        return f"4 fields separated by tabs (user, item, rating, timestamp), not {len(fields)}"
    names = (
        "a user id, an integer from 1",
        "an item id, an integer from 1",
        "a rating, an integer 1..5",
        "a timestamp in seconds",
    )
    patterns = (rb"[1-9]\d{0,8}", rb"[1-9]\d{0,8}", rb"[1-5]", rb"\d{1,18}")
    wrong = next(i for i, pattern in enumerate(patterns) if not re.fullmatch(pattern, fields[i]))
    return f"field {wrong + 1} to be {names[wrong]}"


def _shown(line: bytes) -> str:
    text = repr(line[:60].decode("utf-8", "backslashreplace"))
    return f"{text} and {len(line) - 60} bytes more" if len(line) > 60 else text
