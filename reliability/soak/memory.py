"""How much memory a process holds over time, and whether that grows."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import psutil

MIB = 1 << 20
Samples = list[tuple[float, float]]
"""(seconds since 1970, MiB)"""


class MemoryWatch:
    """Resident memory of programs, by name, every `every_s` seconds."""

    def __init__(self, pids: Mapping[str, Callable[[], int | None]], every_s: float) -> None:
        self._pids, self._every = dict(pids), every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self.samples: dict[str, Samples] = {name: [] for name in pids}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            for name, pid_of in self._pids.items():
                with contextlib.suppress(psutil.Error):
                    if (pid := pid_of()) is not None:
                        held = psutil.Process(pid).memory_info().rss / MIB
                        self.samples[name].append((time.time(), held))


def trend(samples: Sequence[tuple[float, float]], warm_up_s: float) -> dict[str, float]:
    """Of the samples after the warm-up: medians of their first and last third, and the slope of a straight line."""
    if not samples:
        return {"start_mib": 0.0, "end_mib": 0.0, "growth_mib": 0.0, "slope_mib_per_h": 0.0}
    begin = samples[0][0] + warm_up_s
    kept = np.array([one for one in samples if one[0] >= begin] or samples[-3:])
    third = max(1, len(kept) // 3)
    start, end = float(np.median(kept[:third, 1])), float(np.median(kept[-third:, 1]))
    slope = float(np.polyfit(kept[:, 0] - kept[0, 0], kept[:, 1], 1)[0]) * 3600 if len(kept) > 2 else 0.0
    figures = {"start_mib": start, "end_mib": end, "growth_mib": end - start, "slope_mib_per_h": slope}
    return {name: round(value, 1) for name, value in figures.items()}
