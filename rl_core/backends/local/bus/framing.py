"""Frames in a file that is only appended to: each tells its length and a checksum, and damage of one hides no other.

    mark (8 bytes) | length of the body (u32) | CRC-32 of length and body (u32) | body

The mark can't occur in UTF-8, so not in JSON either: behind a damaged stretch it shows where the next frame begins.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

MARK = b"\xff\xfebus\xfe\xff\x02"
_HEAD = struct.Struct("<8sII")
_LENGTH = struct.Struct("<I")
FRAME_BYTES = _HEAD.size
"""What a frame takes beside its body."""


def framed(*parts: bytes) -> bytes:
    """Encode a frame whose body are the parts, one behind the other."""
    length = sum(map(len, parts))
    checksum = zlib.crc32(_LENGTH.pack(length))
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join((_HEAD.pack(MARK, length, checksum), *parts))


def body_at(content: bytes, position: int) -> bytes | None:
    """Return the body of the frame that begins there; None where there is none that is whole."""
    start = position + FRAME_BYTES
    if not content.startswith(MARK, position) or start > len(content):
        return None
    _, length, checksum = _HEAD.unpack_from(content, position)
    body = content[start : start + length]
    whole = len(body) == length and zlib.crc32(body, zlib.crc32(_LENGTH.pack(length))) == checksum
    return body if whole else None


def bodies_in(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield every whole frame's place and body, whatever lies between them."""
    position = 0
    while (position := content.find(MARK, position)) >= 0:
        if (body := body_at(content, position)) is None:
            position += 1
        else:
            yield position, body
            position += FRAME_BYTES + len(body)
