"""Where the ratings come from: a given file, the downloaded MovieLens 100K, or a synthetic set of the same shape.

The first answer under a BANDIT_HOME is kept: observations of one data set mean nothing in another, so a bandit born
offline stays with its synthetic world until `$BANDIT_HOME/data` is deleted.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import queue
import re
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from rl_core.config import Settings
from rl_core.errors import DataError

Data = Literal["movielens-100k", "synthetic", "file"]

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "6e47046882bad158b0efbb84cd5cb987"  # of u.data inside it

_log = logging.getLogger(__name__)
_LINE = re.compile(rb"^([1-9]\d{0,8})\t([1-9]\d{0,8})\t([1-5])\t(\d{1,18})$", re.MULTILINE)
_MAX_CELLS = 100_000_000  # a dense float64 matrix of 0.8 GB
_FIRST_BYTE_S, _DOWNLOAD_S = 4.0, 60.0


def find_ratings(settings: Settings, url: str = URL) -> tuple[Path, Data]:
    """The ratings file and its kind: BANDIT_MOVIELENS_DIR, else what BANDIT_HOME holds, else download, else synthetic.

    Raises:
        DataError: BANDIT_MOVIELENS_DIR is set and holds no `u.data`.
    """
    if settings.movielens_dir is not None:
        path = settings.movielens_dir
        path = path / "u.data" if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"{path}: no such file; BANDIT_MOVIELENS_DIR must be a folder holding u.data, or the file")
        return path, "movielens-100k" if _md5(path.read_bytes()) == MD5 else "file"
    real, synthetic = settings.home / "data/ml-100k/u.data", synthetic_path(settings.home)
    if real.is_file():
        return real, "movielens-100k"
    if synthetic.is_file():
        return synthetic, "synthetic"
    try:
        download(real, url)
    except DataError as error:
        _log.warning("%s; using synthetic ratings (delete %s to try again)", error, synthetic.parent)
        from rl_core.bandit.movielens_synthetic import write_synthetic

        write_synthetic(synthetic)
        return synthetic, "synthetic"
    return real, "movielens-100k"


def synthetic_path(home: Path) -> Path:
    """Where the synthetic ratings of a BANDIT_HOME lie; a file written there in advance keeps it off the network."""
    return home / "data/synthetic/u.data"


def download(path: Path, url: str = URL) -> None:
    """Fetch MovieLens 100K and put its u.data at `path`, atomically.

    Raises:
        DataError: no answer within seconds, or the file that came is not MovieLens 100K.
    """
    try:
        content = zipfile.ZipFile(io.BytesIO(_fetch(url))).read("ml-100k/u.data")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{url}: MovieLens 100K could not be downloaded ({error})") from error
    if _md5(content) != MD5:
        raise DataError(f"{url}: u.data has md5 {_md5(content)}, MovieLens 100K has {MD5}")
    write_atomically(path, content)
    _log.warning(
        "MovieLens 100K was downloaded from GroupLens to %s. Its terms: for research, no redistribution, no commercial "
        "use without permission; cite Harper and Konstan (2015), https://doi.org/10.1145/2827872",
        path,
    )


def _fetch(url: str) -> bytes:
    """In a thread of its own: looking up a name can't be timed out, and offline it may take half a minute."""
    parts: queue.Queue[bytes | OSError] = queue.Queue()
    threading.Thread(target=_read_parts, args=(url, parts), daemon=True).start()
    content, wait, deadline = bytearray(), _FIRST_BYTE_S, time.monotonic() + _DOWNLOAD_S
    try:
        while part := parts.get(timeout=wait):
            if isinstance(part, OSError):
                raise part
            content += part
            wait = max(0.0, deadline - time.monotonic())
    except queue.Empty:
        raise TimeoutError(f"nothing came for {wait:.1f} s") from None
    return bytes(content)


def _read_parts(url: str, parts: queue.Queue[bytes | OSError]) -> None:
    import urllib.request  # 50 ms that those with data at hand don't pay
    from http.client import HTTPException

    try:
        with urllib.request.urlopen(url, timeout=_FIRST_BYTE_S) as answer:  # noqa: S310 - http(s), from the constant above
            while part := answer.read(1 << 16):
                parts.put(part)
        parts.put(b"")
    except OSError as error:
        parts.put(error)
    except HTTPException as error:
        parts.put(OSError(repr(error)))


def write_atomically(path: Path, content: bytes) -> None:
    """Two processes may arrive here together: each writes its own file, and the last rename stands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(partial, path)


def load_ratings(path: Path) -> NDArray[np.float64]:
    """The matrix [highest user id, highest item id] of a file in u.data format; 0 where unrated, the last of repeats.

    Raises:
        DataError: the file can't be read, or a line is not `user<TAB>item<TAB>rating 1..5<TAB>timestamp`.
    """
    try:
        content = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    if not content:
        raise DataError(f"{path}: is empty; expected lines of user, item, rating and timestamp, separated by tabs")
    rows = _LINE.findall(content)
    if len(rows) != content.count(b"\n") + (not content.endswith(b"\n")):
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


def _name_first_fault(path: Path, content: bytes) -> NoReturn:
    lines = content.removesuffix(b"\n").split(b"\n")
    number, line = next((n, line) for n, line in enumerate(lines, 1) if not _LINE.fullmatch(line))
    raise DataError(f"{path}: line {number}: expected {_expected(line)}, got {_shown(line)}")


def _expected(line: bytes) -> str:
    fields = line.split(b"\t")
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


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
