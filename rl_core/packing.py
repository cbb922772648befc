"""Packs a definition that is too long for one argument or variable of a process, of which Linux takes 128 KiB."""

from __future__ import annotations

import base64
import binascii
import json
import zlib

_PLAIN = 48 * 1024
_MARK = "zlib:"


def packed(text: str) -> str:
    """Return a short JSON text as it is, so that it can be read and its cache keys stay; a long one compressed."""
    if len(json.dumps(text)) <= _PLAIN:
        return text
    return _MARK + base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: str) -> str:
    """Return what `packed` was given. Raises ValueError."""
    if not text.startswith(_MARK):
        return text
    try:
        return zlib.decompress(base64.b64decode(text.removeprefix(_MARK), validate=True)).decode()
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"packed text is damaged: {error}") from error
