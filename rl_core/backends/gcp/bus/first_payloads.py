"""Keeps the first payload published under each decision's key: a repeat within this process is answered with it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from rl_core.backends.contracts.bus import Receipt

MOST_BYTES = 64 << 20
_OVERHEAD_BYTES = 300  # of an entry, beside its payload


@dataclass(frozen=True, slots=True)
class Standing:
    """The payload that stands under a key; without `receipt` it was sent, not acknowledged, and must be sent again."""

    payload: bytes
    receipt: Receipt | None


class FirstPayloads:
    """The latest payloads within `most_bytes`, for the publisher. Thread-safe, and never waits for the network."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, Standing] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Standing | None:
        """Return what stands under the key, if it is still remembered."""
        with self._lock:
            return self._kept.get(key)

    def put(self, key: str, standing: Standing) -> None:
        """Remember what stands under the key, and drop the oldest beyond `most_bytes`."""
        with self._lock:
            if (before := self._kept.pop(key, None)) is not None:
                self._bytes -= _size(before)
            self._kept[key] = standing
            self._bytes += _size(standing)
            while self._bytes > self._most_bytes:
                self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(standing: Standing) -> int:
    return len(standing.payload) + _OVERHEAD_BYTES
