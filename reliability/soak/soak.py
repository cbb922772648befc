"""One soak from its first process to its report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reliability.soak.load import Load, Request
from reliability.soak.memory import MemoryWatch, trend
from reliability.storm.audit import read
from reliability.storm.quick_training import train, train_first
from reliability.storm.training import Trainings
from reliability.storm.world import World
from rl_core.backends import open_backend
from rl_core.errors import BanditError
from rl_core.policy.windows import new_windows
from rl_core.waiting import wait_for

AROUND_SWAP_S = 1.0
WARM_UP_SHARE = 0.2
GROWTH_MIB, GROWTH_SHARE = 16.0, 0.10
"""Flat: between the first and the last third after the warm-up no program grew by more than the larger of the two."""
MEMORY_FROM_S = 300.0
"""A program that is minutes old still takes what it needs: a shorter soak shows its memory and judges it not."""


@dataclass(frozen=True)
class Size:
    """`quick`: train with the stages in this process, however slow the disk is; else with real pipelines, one after the
    other, and the limits that ship.
    """

    seconds: float
    rate: float = 200.0
    every_s: float = 30.0
    seed: int = 1
    quick: bool = False


class Soak:
    def __init__(self, size: Size, folder: Path, tell: Callable[[str], None]) -> None:
        self.size, self._tell = size, tell
        enough = max(50, int(size.rate * size.every_s * 0.9))
        changed = {
            "join": {"reward_wait_s": min(10.0, size.seconds / 6)},
            "serving": {"epsilon": 0.2} | ({"publish_deadline_s": 20.0} if size.quick else {}),
            "retrain": {"min_new_interactions": enough, "poke_interval_s": 2, "run_timeout_s": 600},
        }
        self.world = World(folder, changed)
        self.load = Load(self.world.url, self.world.environment, size.rate, size.seed)
        pids = {"server": lambda: self.world.server.pid, "logger": lambda: self.world.logger.pid}
        self.memory = MemoryWatch(pids, min(5.0, size.seconds / 10))
        self.trainings = Trainings(self.world)
        self.problems: list[str] = []
        self._over = threading.Event()

    def run(self) -> dict[str, Any]:
        partial, in_store = True, 0
        try:
            self._tell("server, event logger and the first policy")
            self.world.start()
            self._begin_training()
            self._send()
            self._tell("the log comes to rest")
            self.trainings.stop()
            in_store = self._in_store()
            partial = False
        except KeyboardInterrupt:
            self.problems.append("interrupted")
        except BanditError as error:
            self.problems.append(str(error))
        finally:
            self._over.set()
            self.memory.stop()
            with contextlib.suppress(BanditError):
                self.trainings.close()
            self.world.stop()
        return self._report(in_store, partial)

    def _begin_training(self) -> None:
        if not self.size.quick:
            self.trainings.start()
            return
        bandit, settings = self.world.bandit, self.world.settings
        champion = train_first(bandit, settings, self.world.folder / "first-policy")
        threading.Thread(target=self._train_here, args=(champion,), name="trainings", daemon=True).start()

    def _train_here(self, champion: str) -> None:
        number, world = 0, self.world
        while not self._over.wait(self.size.every_s):
            windows = new_windows(
                open_backend(world.bandit, world.settings).registry(),
                open_backend(world.bandit, world.settings).store().head(),
            )
            if not windows:
                continue
            number += 1
            try:
                folder = world.folder / f"training-{number}"
                champion = train(world.bandit, world.settings, windows, champion, folder)
            except BanditError as error:
                if not self._over.is_set():  # else its server was stopped under it
                    self.problems.append(str(error))
                return

    def _send(self) -> None:
        self.memory.start()
        until = time.monotonic() + self.size.seconds
        done = threading.Event()

        def over() -> bool:
            return time.monotonic() > until or self._over.is_set()

        def send() -> None:
            try:
                asyncio.run(self.load.run(over))
            except Exception as error:
                self.problems.append(f"load: {type(error).__name__}: {error}")
            finally:
                done.set()

        threading.Thread(target=send, name="load", daemon=True).start()
        while not done.wait(0.5):
            failed = sum(request.problem is not None for request in self.load.requests)
            left = max(0, until - time.monotonic())
            swaps = max(0, len(self.load.first_answer) - 1)
            self._tell(f"{len(self.load.requests):,} requests, {failed} failed, {swaps} swaps; {left:.0f} s to go")

    def _in_store(self) -> int:
        """How many of the acknowledged decisions the store holds."""

        quiet = time.time()

        def carried() -> bool:
            looked, state = self.world.logging_since(quiet), self.world.logger_state()
            return bool(looked and state and not state["error"] and not any(state["lag"].values()))

        wait_for(carried, 60, "the logger to carry the last events")
        stored = {row["event_id"] for row in read(self.world.state_dir / "store")["decisions"]}
        return sum(event_id in stored for event_id in self.load.acknowledged)

    def _report(self, in_store: int, partial: bool) -> dict[str, Any]:
        requests, swaps = self.load.requests, sorted(self.load.first_answer.values())[1:]
        near = [request for request in requests if any(abs(request.at - swap) <= AROUND_SWAP_S for swap in swaps)]
        failed = [request for request in requests if request.problem]
        warm_up = WARM_UP_SHARE * self.size.seconds
        return {
            "seconds": self.size.seconds,
            "rate": self.size.rate,
            "seed": self.size.seed,
            "requests": len(requests),
            "failed": len(failed),
            "failures": sorted({request.problem or "" for request in failed})[:5],
            "swaps": len(swaps),
            "failed_within_1s_of_swap": sum(request.problem is not None for request in near),
            "p50_ms": quantile_ms(requests, 0.5),
            "p99_ms": quantile_ms(requests, 0.99),
            "p99_within_1s_of_swap_ms": quantile_ms(near, 0.99),
            "acknowledged": len(self.load.acknowledged),
            "in_store": in_store,
            "rss": {name: trend(samples, warm_up) for name, samples in self.memory.samples.items()},
            "training_errors": self.trainings.errors[:5],
            "unexpected_exits": len(self.world.server.exits) + len(self.world.logger.exits),
            "partial": partial,
            "problems": self.problems,
            "cores": os.cpu_count(),
        }


def quantile_ms(requests: list[Request], quantile: float) -> float | None:
    """Of the predictions, from when they were due."""
    taken = [request.took_s for request in requests if request.path == "/predict"]
    return round(1e3 * float(np.quantile(taken, quantile)), 2) if taken else None


def broken(report: dict[str, Any], least_swaps: int) -> list[str]:
    """A line for every promise that the report breaks."""
    lines = [f"{name} is {report[name]}, promised 0" for name in ("failed", "unexpected_exits") if report[name]]
    if report["swaps"] < least_swaps:
        lines.append(f"only {report['swaps']} swaps, wanted {least_swaps}")
    if report["in_store"] != report["acknowledged"]:
        lines.append(f"{report['acknowledged']} decisions acknowledged, {report['in_store']} of them in the store")
    for name, held in report["rss"].items() if report["seconds"] >= MEMORY_FROM_S else ():
        allowed = max(GROWTH_MIB, GROWTH_SHARE * held["start_mib"])
        if held["growth_mib"] > allowed:
            lines.append(f"{name} grew by {held['growth_mib']} MiB, promised at most {allowed:.0f}")
    if report["partial"]:
        lines.append("the soak was interrupted: nothing is proven")
    return lines + [f"it went wrong: {problem}" for problem in report["problems"]]
