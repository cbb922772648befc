"""Fetches MovieLens 100K from GroupLens: checked by its md5, put in place atomically, given up within seconds."""

from __future__ import annotations

import hashlib
import io
import logging
import queue
import threading
import time
import zipfile
from pathlib import Path

from rl_core.errors import DataError
from rl_core.files import write_atomically

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
MD5 = "6e47046882bad158b0efbb84cd5cb987"  # of u.data inside it

_log = logging.getLogger(__name__)
_FIRST_BYTE_S, _DOWNLOAD_S = 4.0, 60.0


def is_movielens_100k(content: bytes) -> bool:
    """Tell whether these are the bytes of u.data of MovieLens 100K, by their md5."""
    return _md5(content) == MD5


def download(path: Path, url: str = URL) -> None:
    """Fetch MovieLens 100K and put its u.data at `path`, atomically.

    Raises:
        DataError: no answer within seconds, or the file that came is not MovieLens 100K.
    """
    try:
        content = zipfile.ZipFile(io.BytesIO(_fetch(url))).read("ml-100k/u.data")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{url}: MovieLens 100K could not be downloaded ({error})") from error
    if not is_movielens_100k(content):
        raise DataError(f"{url}: u.data has md5 {_md5(content)}, MovieLens 100K has {MD5}")
    path.parent.mkdir(parents=True, exist_ok=True)
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


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
