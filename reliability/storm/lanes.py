"""Who does the damage: one thread for each kind of victim, following its part of the plan.

A lane strikes, waits until its victim works again, rests as long as the plan says, and strikes again. Lanes know
nothing of each other, so a server dies while the disk is full and a worker while its scheduler is away.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from reliability.quick_airflow import kill_worker
from reliability.storm import jobs
from reliability.storm.airflow import Airflow, Try
from reliability.storm.disk import Disk, damage
from reliability.storm.plan import Fault
from reliability.storm.traffic import Traffic
from reliability.storm.training import Trainings
from reliability.storm.world import World

PATIENCE_S = 60.0
"""Who does not work again within this time never will."""

_HASTY = "kill while it starts"
_LOOK_EVERY_S = 0.05
_JOB_S = 10.0
"""About how long a job takes: where in it a fault falls is drawn."""
_UNNOTICED_S = 2.0
"""A damaged page may lie in somebody's memory, whole, for a while."""


@dataclass
class Strike:
    """One fault that happened. `recovered_at` is None while its victim is away; times in seconds since 1970."""

    lane: str
    kind: str
    at: float
    detail: str = ""
    kills: int = 1
    recovered_at: float | None = None

    @property
    def recovery_s(self) -> float | None:
        return None if self.recovered_at is None else self.recovered_at - self.at


class Lane(ABC):
    name: str

    def __init__(self, world: World, faults: Sequence[Fault]) -> None:
        self.world = world
        self._faults = list(faults)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play, name=f"lane {self.name}", daemon=True)
        self.strikes: list[Strike] = []
        self.failure: str | None = None

    def start(self) -> None:
        self._thread.start()

    def over(self) -> None:
        """Strike no more."""
        self._over.set()

    def stop(self) -> None:
        """Strike no more, and return once the last victim is well."""
        self.over()
        if self._thread.is_alive():
            self._thread.join(timeout=PATIENCE_S)

    @property
    def left(self) -> int:
        return len(self._faults) - len(self.strikes) if self._thread.is_alive() else 0

    @abstractmethod
    def strike(self, fault: Fault) -> Strike | None:
        """Do it; None where there was nobody to do it to."""

    @abstractmethod
    def works(self, since: Strike) -> bool:
        """Whether the victim of this strike works again."""

    def _play(self) -> None:
        try:
            for fault in self._faults:
                if self._over.wait(0 if fault.kind == _HASTY else fault.after_s):
                    return
                if not self._play_one(fault):
                    return
        except Exception as error:
            self.failure = f"lane {self.name}: {type(error).__name__}: {error}"
            raise

    def _play_one(self, fault: Fault) -> bool:
        while (struck := self.strike(fault)) is None:
            if self._over.wait(_LOOK_EVERY_S):
                return False
        self.strikes.append(struck)
        self._until_it_works(struck)
        return True

    def _until_it_works(self, struck: Strike) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self.works(struck):
            if time.monotonic() > deadline:
                return
            time.sleep(_LOOK_EVERY_S)
        struck.recovered_at = time.time()


class _ProgramLane(Lane):
    """A program of the world is killed; "kill while it starts" kills it, and once more soon after it was started."""

    def strike(self, fault: Fault) -> Strike | None:
        program = getattr(self.world, self.name)
        if fault.kind == _HASTY:
            while program.kill() is None:
                time.sleep(0.01)
            if self._over.wait(fault.after_s):
                return None
        away = (self.world.bandit.join.reward_wait_s + 2 * fault.chance) if fault.kind.endswith("away") else 0.0
        at = time.time()
        pid = program.kill(away)
        return None if pid is None else Strike(self.name, fault.kind, at, f"pid {pid}", 1 + (fault.kind == _HASTY))


class ServerLane(_ProgramLane):
    name = "server"

    def works(self, since: Strike) -> bool:
        state = self.world.server_state()
        return bool(state and state["champion"] and f"pid {state['pid']}" != since.detail)


class LoggerLane(_ProgramLane):
    name = "logger"

    def works(self, since: Strike) -> bool:
        return self.world.logging_since(since.at)


class TrainerLane(Lane):
    """The processes of a pipeline job, at whatever step they are; never those of a run's last try."""

    name = "trainer"

    def __init__(self, world: World, faults: Sequence[Fault], trainings: Airflow | Trainings) -> None:
        super().__init__(world, faults)
        self._trainings = trainings
        self._runs = world.state_dir / "runs"
        self._begun: dict[str, float] = {}

    def strike(self, fault: Fault) -> Strike | None:
        living = jobs.living(self._runs)
        escaped = len(self._begun.keys() - living.keys())  # they ended too early: strike at younger ones
        age_s = _JOB_S * fault.chance / (1 + escaped)
        for job_id in living:
            if jobs.state_of(self._runs, job_id) in ("SUCCEEDED", "FAILED", "CANCELLED"):
                continue
            begun = self._begun.setdefault(job_id, time.monotonic())
            if time.monotonic() - begun < age_s:
                continue
            if self._trainings.spared(job_id):
                del self._begun[job_id]
                continue
            at = time.time()
            if killed := jobs.kill(self._runs, job_id, fault.kind):
                self._begun.clear()
                return Strike(self.name, fault.kind, at, f"{job_id}: {len(killed)} processes")
        return None

    def works(self, since: Strike) -> bool:
        """Once a job has begun since, or the struck one has succeeded all the same."""
        return jobs.begun_since(self._runs, since.at)


class AirflowLane(Lane):
    name = "airflow"

    def __init__(self, world: World, faults: Sequence[Fault], airflow: Airflow) -> None:
        super().__init__(world, faults)
        self._airflow = airflow
        self._struck: Try | None = None

    def strike(self, fault: Fault) -> Strike | None:
        if fault.kind.startswith("scheduler"):
            self._struck, at = None, time.time()
            self._airflow.kill_scheduler(0.0 if fault.kind.endswith("workers") else 3 * fault.chance)
            return Strike(self.name, fault.kind, at)
        self._struck = self._airflow.running_try()
        if self._struck is None:
            return None
        at = time.time()
        kill_worker(self._struck.worker, task_only=fault.kind == "task")
        return Strike(self.name, fault.kind, at, f"{self._struck.task_id} of {self._struck.run_id}")

    def works(self, since: Strike) -> bool:
        self._airflow.keep_unpaused()
        if self._struck is not None:
            return self._airflow.overcome(self._struck)
        return self._airflow.progress_since(since.at)


class DiskLane(Lane):
    """The disk fills up and is freed (recovery counts from then), or the bus is damaged under the server's hands."""

    name = "disk"

    def __init__(self, world: World, faults: Sequence[Fault], disk: Disk, traffic: Traffic, seed: int) -> None:
        super().__init__(world, faults)
        self._disk, self._traffic, self._seed = disk, traffic, seed
        self._bus = world.state_dir / "bus"
        self._logged = False

    def strike(self, fault: Fault) -> Strike | None:
        self._logged = False
        if fault.kind == "full":
            until = time.monotonic() + 2 + 3 * fault.chance
            try:
                while time.monotonic() < until and not self._over.is_set():
                    self._disk.fill()
                    time.sleep(0.1)
            finally:
                self._disk.free()
            return Strike(self.name, fault.kind, time.time(), self._disk.kind, kills=0)
        at = time.time()
        done = damage(self._bus, fault.kind, f"{self._seed}/{len(self.strikes)}")
        return Strike(self.name, fault.kind, at, done, kills=0)

    def works(self, since: Strike) -> bool:
        """A decision was acknowledged and the logger had a cycle, after there was time to notice the damage."""
        noticed = since.at + (0 if since.kind == "full" else _UNNOTICED_S)
        self._logged = self._logged or self.world.logging_since(noticed)
        times = self._traffic.acknowledged_times
        return self._logged and bool(times) and times[-1] > noticed
