"""kfp.local's cache of step outputs, with a checksum of every file: what is gone or damaged is made again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import google_crc32c
from kfp import dsl
from kfp.local.cache import LocalCache

_SEAL = "__sums__"
_PIECE = 1 << 20


class SealedCache(LocalCache):  # type: ignore[misc]
    """A `LocalCache` (kfp 2.17) that asks whether all files of an output are there as they were, not only its folder.

    An entry without checksums is a miss.
    """

    def get(self, key: str) -> dict[str, Any] | None:
        try:
            outputs: dict[str, Any] | None = super().get(key)
            if outputs is None or outputs.pop(_SEAL, None) == _sums(outputs):
                return outputs
        except (AttributeError, KeyError, OSError, TypeError, ValueError):  # the entry itself is damaged
            pass
        logging.warning("cached outputs are gone or damaged; the step runs again")
        return None

    def put(self, key: str, outputs: dict[str, Any]) -> None:
        super().put(key, {**outputs, _SEAL: _sums(outputs)})


def _sums(outputs: dict[str, Any]) -> dict[str, int]:
    """The crc32c of each file of the outputs, by path."""
    values = [one for value in outputs.values() for one in (value if isinstance(value, list) else [value])]
    roots = [Path(value.path) for value in values if isinstance(value, dsl.Artifact)]
    return {str(file): _crc(file) for root in roots for file in [root, *root.rglob("*")] if file.is_file()}


def _crc(file: Path) -> int:
    crc = 0
    with file.open("rb") as stream:
        while piece := stream.read(_PIECE):
            crc = google_crc32c.extend(crc, piece)
    return crc
