"""One storm from its first process to its report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability.storm import disk as disks
from reliability.storm import report as reports
from reliability.storm.airflow import Airflow
from reliability.storm.audit import Finding, audit, named_in, read
from reliability.storm.jobs import JobWatch
from reliability.storm.lanes import AirflowLane, DiskLane, Lane, LoggerLane, ServerLane, Strike, TrainerLane
from reliability.storm.plan import Plan, draw
from reliability.storm.traffic import Traffic
from reliability.storm.training import Trainings
from reliability.storm.windows import check
from reliability.storm.world import World
from rl_core.backends import open_backend
from rl_core.errors import BanditError
from rl_core.waiting import wait_for

DRAIN_S = 90.0
CLIENTS = 12


@dataclass(frozen=True)
class Size:
    seed: int
    kills: int
    decisions: int
    seconds: float
    airflow: bool = True
    corruption: bool = True
    pause_s: float = 0.25


class Storm:
    """`run` plays it and returns the report; `folder` is its own, and empty."""

    def __init__(self, size: Size, folder: Path, tell: Callable[[str], None]) -> None:
        self.size, self._tell = size, tell
        self.plan: Plan = draw(size.seed, size.kills, size.seconds, airflow=size.airflow, corruption=size.corruption)
        self.world = World(folder)
        self.disk = disks.open_disk(self.world.state_dir, self._pids)
        wait = self.world.bandit.join.reward_wait_s
        self.traffic = Traffic(self.world.url, self.world.environment, size.seed, CLIENTS, wait, size.pause_s)
        self.watch = JobWatch(self.world.state_dir / "runs")
        self.trainings: Airflow | Trainings = Airflow(self.world) if size.airflow else Trainings(self.world)
        self.lanes = self._lanes()
        self.problems: list[str] = []
        self.seconds = 0.0

    def run(self) -> dict[str, Any]:
        """Raises what kept it from beginning; what goes wrong later is in the report's `problems`."""
        finding, windows, partial = Finding(), (0, 0), True
        try:
            self._tell("server, event logger and the first training")
            self.world.start()
            self.watch.start()
            self.trainings.start()
            self._play()
            self._rest()
            told, tables = self.traffic, read(self.world.state_dir / "store")
            named = named_in((self.world.folder / "logs").glob("*.log"))
            finding = audit(told.records, told.strangers, tables, self._wait, f"s{self.size.seed}-", named)
            windows, partial = self._windows(), False
        except KeyboardInterrupt:
            self.problems.append("interrupted")
        except BanditError as error:
            self.problems.append(str(error))
        finally:
            self._end()
        return self._report(finding, windows, partial)

    @property
    def strikes(self) -> list[Strike]:
        return sorted((strike for lane in self.lanes for strike in lane.strikes), key=lambda strike: strike.at)

    def keep_evidence(self, folder: Path) -> None:
        """Copy logs and the bandit's state before they are gone."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.world.folder, folder, ignore_dangling_symlinks=True, dirs_exist_ok=True)

    def close(self) -> None:
        if isinstance(self.disk, disks.SmallDisk):
            self.disk.unmount()

    @property
    def _wait(self) -> float:
        return self.world.bandit.join.reward_wait_s

    def _lanes(self) -> list[Lane]:
        world, faults = self.world, self.plan.lanes
        lanes: list[Lane] = [
            ServerLane(world, faults["server"]),
            LoggerLane(world, faults["logger"]),
            TrainerLane(world, faults["trainer"], self.trainings),
            DiskLane(world, faults["disk"], self.disk, self.traffic, self.size.seed),
        ]
        if isinstance(self.trainings, Airflow):
            lanes.append(AirflowLane(world, faults["airflow"], self.trainings))
        return lanes

    def _play(self) -> None:
        """Traffic and faults, until the plan is played and enough is acknowledged."""
        begun = time.monotonic()
        clients = threading.Thread(target=self._traffic, name="traffic", daemon=True)
        clients.start()
        for lane in self.lanes:
            lane.start()
        longest = 2 * self.size.seconds + 120
        while any(lane.left for lane in self.lanes) or self.traffic.acknowledged < self.size.decisions:
            left = {lane.name: lane.left for lane in self.lanes}
            kills = sum(reports.kills_of(self.strikes).values())
            self._tell(f"{self.traffic.acknowledged:,} acknowledged, {kills} kills; faults to come: {left}")
            if time.monotonic() - begun > longest:
                self.problems.append(f"after {longest:.0f} s there were still faults to come: {left}")
                break
            if not clients.is_alive():
                break
            time.sleep(0.25)
        for lane in self.lanes:
            lane.stop()
        self.disk.free()
        self.traffic.finish()
        clients.join(DRAIN_S)
        if clients.is_alive():
            self.problems.append(f"clients still waited for an answer {DRAIN_S:.0f} s after the last fault")
        self.seconds = round(time.monotonic() - begun, 1)

    def _traffic(self) -> None:
        try:
            asyncio.run(self.traffic.run())
        except Exception as error:
            self.problems.append(f"traffic: {type(error).__name__}: {error}")
            raise

    def _rest(self) -> None:
        """Trainings end, the logger carries what is left, and every decision closes."""
        self._tell("the last training ends")
        self.trainings.stop()
        self._tell("the log comes to rest")
        store, quiet = open_backend(self.world.bandit, self.world.settings).store(), time.time()

        def at_rest() -> bool:
            state = self.world.logger_state()
            if not state or state["error"] or not self.world.logging_since(quiet) or any(state["lag"].values()):
                return False
            count = "SELECT count(DISTINCT event_id) AS n FROM decisions WHERE served"
            return bool(store.query(count)["n"][0].as_py() <= store.head())

        with contextlib.suppress(BanditError):  # what is open then is counted
            wait_for(at_rest, DRAIN_S, "the log to come to rest")

    def _windows(self) -> tuple[int, int]:
        head = open_backend(self.world.bandit, self.world.settings).store().head()
        return check(open_backend(self.world.bandit, self.world.settings).registry(), head)

    def _end(self) -> None:
        """Every process is gone afterwards."""
        self._tell("ending every process")
        self.traffic.finish()
        for lane in self.lanes:
            lane.over()
        self.disk.free()
        with contextlib.suppress(BanditError):
            self.trainings.close()
        self.watch.stop()
        self.world.stop()

    def _pids(self) -> list[int | None]:
        return [self.world.server.pid, self.world.logger.pid]

    def _report(self, finding: Finding, windows: tuple[int, int], partial: bool) -> dict[str, Any]:
        strikes, traffic = self.strikes, self.traffic
        kills = reports.kills_of(strikes)
        kinds = reports.recoveries(strikes)
        lanes = [lane.failure for lane in self.lanes if lane.failure]
        examples = {name: found for name, found in finding.examples.items() if found}
        figures = {name: value for name, value in vars(finding).items() if name != "examples"}
        airflow = isinstance(self.trainings, Airflow)
        return {
            "acknowledged": traffic.acknowledged,
            **figures,
            "rewards_unjoined": finding.rewards_sent - finding.rewards_joined - finding.unjoined_by_damage,
            "kills": sum(kills.values()),
            "kills_by_victim": dict(kills),
            "faults": kinds,
            "windows_overlapping": windows[0],
            "windows_with_gaps": windows[1],
            "pipeline_runs_per_task_max": self.watch.most_at_once,
            "pipeline_successes_per_task_max": max(self.watch.successes().values(), default=0),
            "pipeline_runs_overlapping": sorted(map(list, self.watch.overlapping)),
            "pipeline_jobs": len(self.watch.seen),
            "recovery_s_max": max((kind["recovery_s_max"] for kind in kinds.values()), default=0.0),
            "longest_silence_s": reports.silence(traffic.acknowledged_times),
            "seed": self.size.seed,
            "plan_digest": self.plan.digest,
            "seconds": self.seconds,
            "decisions_asked": len(traffic.records),
            "retries": traffic.retries,
            "unforeseen_answers": len(traffic.unforeseen),
            "disk": self.disk.kind,
            "airflow": airflow,
            "retrain_runs": dict(self.trainings.runs()) if isinstance(self.trainings, Airflow) else self.trainings.runs,
            "failed_jobs": self.watch.failures(),
            "unexpected_exits": {
                program.name: len(program.unexpected) for program in (self.world.server, self.world.logger)
            },
            "partial": partial,
            "problems": [*self.problems, *lanes, *traffic.unforeseen[:3]],
            "examples": examples,
            "cores": os.cpu_count(),
        }
