"""Frames records as TFRecord files do: length, checksum of the length, data, checksum of the data.

Source: tensorflow/core/lib/io/record_writer.h.
"""

from __future__ import annotations

from collections.abc import Iterable

import google_crc32c
import numpy as np
from numpy.typing import NDArray


def framed(data: bytes) -> bytes:
    """Return `data` as one record of a TFRecord file."""
    length = len(data).to_bytes(8, "little")
    before, after = (int(crc).to_bytes(4, "little") for crc in checksums([length, data]))
    return length + before + data + after


def checksums(values: Iterable[bytes]) -> NDArray[np.uint32]:
    """Return the CRC-32C of each value under TFRecord's mask: rotated right by 15 bits, plus a constant."""
    crc = np.fromiter(map(google_crc32c.value, values), np.uint32)
    rotated: NDArray[np.uint32] = ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
    return rotated
