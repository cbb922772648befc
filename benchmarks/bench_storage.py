"""Throughput of the local backend: bus publishes, store appends, joins, head(). `python benchmarks/bench_storage.py`"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rl_core.backends.base import Message
from rl_core.backends.local.message_bus import SqliteBus

PAYLOAD = b"x" * 700  # the size of a decision with 20 observations
SECONDS = 2.0


def publishes(folder: Path) -> None:
    for batch in (1, 16, 64, 256):
        bus = SqliteBus(folder / f"bus-{batch}.sqlite")
        done, start = 0, time.perf_counter()
        while (wall := time.perf_counter() - start) < SECONDS:
            bus.publish([Message("decisions", f"event-{done + i:012d}", PAYLOAD) for i in range(batch)])
            done += batch
        bus.close()
        print(
            f"bus.publish, batches of {batch:3d}: {done / wall:9,.0f} messages/s, {done / batch / wall:6,.0f} commits/s"
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        publishes(Path(folder))


if __name__ == "__main__":
    main()
