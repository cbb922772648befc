"""A healthy run never fails, however busy the machine: startup, three retrains by the sensor, one by hand, as shipped.

Beside it, processes that only compute keep every core busy and one keeps the disk busy, so that the scheduler deals
with what happened long after it happened. Prints one line a play; `--report` writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bandit_ops.runners.local import LocalRunner
from local_stack.stack import Stack
from rl_core.backends import open_backend
from rl_core.backends.local.announcement import Announcement
from rl_core.backends.local.http_client import over_http
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError
from rl_core.movielens.data import synthetic_path
from rl_core.movielens.environment import load_environment
from rl_core.movielens.synthetic import write_synthetic
from rl_core.simulation.traffic import simulate
from rl_core.waiting import wait_for
from stand_ins.free_port import free_port

REPOSITORY = Path(__file__).resolve().parents[1]
RETRAINS = 3
PATIENCE_S = 1200.0
"""For what takes 20 s on a quiet machine."""

COMPUTE = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(1_000_000))
"""
WRITE = """
import os, sys
parent = os.getppid()
while os.getppid() == parent:
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(1 << 22))
        os.fsync(file.fileno())
"""


@contextmanager
def busy(processes: int, folder: Path) -> Iterator[None]:
    """Keep cores and disk busy while the block runs, and no longer than this process lives."""
    commands = [["-c", COMPUTE]] * processes + ([["-c", WRITE, str(folder / "written")]] if processes else [])
    started = [subprocess.Popen([sys.executable, *command]) for command in commands]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


class Play:
    """One stack from nothing to its fourth retrain, under `home`."""

    def __init__(self, home: Path) -> None:
        settings = Settings(home=home, server_port=free_port(), airflow_port=free_port())
        write_synthetic(synthetic_path(home))
        yaml = REPOSITORY / "dags" / "bandits" / "movielens.yaml"
        self.bandit, self.settings = Bandit.from_yaml(yaml), settings
        self.stack = Stack({yaml: self.bandit}, settings)
        self.api = self.stack.airflow.api
        self.environment, _ = load_environment(self.bandit, settings)
        self.least_load = float("inf")

    def run(self) -> dict[str, Any]:
        """Returns what happened; raises BanditError where something did not happen within PATIENCE_S."""
        begun = time.monotonic()
        try:
            self.stack.airflow.start(timeout_s=PATIENCE_S)
            self.stack.services[0].start(timeout_s=PATIENCE_S)
            self.stack.airflow.wait_for_dags([self._dag("startup"), self._dag("retrain")], PATIENCE_S)
            self.api.unpause(self._dag("startup"))
            self._ended("startup", self.api.trigger(self._dag("startup")))
            self.api.unpause(self._dag("retrain"))
            for number in range(1, RETRAINS + 1):
                self._traffic(number, self.bandit.retrain.min_new_interactions)
                self._until(lambda number=number: self._attempts() > number, f"retrain {number}")
            started_after_s = self._by_hand()
            self.api.pause(self._dag("retrain"))
            self._until(self._idle, "the last scheduled run to end")
            return {
                "runs": self._runs(),
                "jobs": self._jobs(),
                "policies": len(open_backend(self.bandit, self.settings).registry().versions()),
                "lost_looks": self._lost_looks(),
                "run_by_hand_started_after_s": round(started_after_s, 1),
                "least_load": round(self.least_load, 1),
                "wall_s": round(time.monotonic() - begun),
            }
        finally:
            self.stack.stop()
            self.api.close()

    def _by_hand(self) -> float:
        """A run that skips the gate while a scheduled one sits in it; seconds from the click to its first task."""
        self._traffic(RETRAINS + 1, 500)
        self._until(lambda: self._attempts() == RETRAINS + 1 and self._in_the_gate(), "a scheduled run in its gate")
        clicked = time.monotonic()
        run_id = self.api.trigger(self._dag("retrain"), {"skip_gate": True})
        self._until(lambda: self.api.task_states(self._dag("retrain"), run_id).get("gate") is not None, "the run")
        started_after_s = time.monotonic() - clicked
        self._ended("retrain", run_id)
        return started_after_s

    def _dag(self, noun: str) -> str:
        return f"{self.bandit.name}_{noun}"

    def _traffic(self, seed: int, decisions: int) -> None:
        state_dir = self.settings.state_dir(self.bandit)
        connect = over_http(lambda: Announcement.read(state_dir).url, self.settings.server_token)
        done = simulate(self.environment, connect, decisions, concurrency=self.bandit.simulate.concurrency, seed=seed)
        if done.ended_early:
            raise BanditError(f"traffic {seed} ended early: {done.ended_early}")

    def _ended(self, noun: str, run_id: str) -> None:
        self._until(lambda: self.api.run(self._dag(noun), run_id)["end_date"], f"{noun} {run_id} to end")

    def _until(self, ask: Any, what: str) -> None:
        def asked() -> Any:
            self.least_load = min(self.least_load, os.getloadavg()[0])
            return ask()

        wait_for(asked, PATIENCE_S, what)

    def _attempts(self) -> int:
        return len(open_backend(self.bandit, self.settings).registry().attempts())

    def _in_the_gate(self) -> bool:
        newest = self.api.runs(self._dag("retrain"))[-1]
        tasks = self.api.task_states(self._dag("retrain"), newest["dag_run_id"])
        return bool(newest["state"] == "running" and tasks.get("gate") == "running")

    def _idle(self) -> bool:
        """Nothing runs; what is queued in a DAG that is paused never begins."""
        exporting = LocalRunner(self.bandit, self.settings).active()
        return not exporting and all(
            run["state"] in ("success", "failed", "queued") for run in self.api.runs(self._dag("retrain"))
        )

    def _runs(self) -> dict[str, int]:
        """How many runs ended how, by DAG and kind of run."""
        counted: dict[str, int] = {}
        for noun in ("startup", "retrain"):
            for run in self.api.runs(self._dag(noun)):
                name = f"{noun} {run['run_type']} {run['state']}"
                counted[name] = counted.get(name, 0) + 1
        return counted

    def _jobs(self) -> dict[str, int]:
        """How many pipeline jobs ended how."""
        counted: dict[str, int] = {}
        for path in (self.settings.state_dir(self.bandit) / "runs").glob("*/state.json"):
            state = json.loads(path.read_bytes())["state"]
            counted[state] = counted.get(state, 0) + 1
        return counted

    def _lost_looks(self) -> int:
        """How often the scheduler took a task for lost whose process had ended well."""
        text = (self.stack.airflow.home / "logs" / "components" / "scheduler.log").read_text(errors="replace")
        return text.count("but the task instance's state attribute is")


def play(processes: int) -> dict[str, Any]:
    """One play in a folder of its own, beside so many busy processes."""
    home = Path(tempfile.mkdtemp(prefix="busy-"))
    try:
        with busy(processes, home):
            return Play(home).run()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def healthy(result: dict[str, Any]) -> bool:
    """Whether every run of the play that began succeeded, and no job was cancelled or failed."""
    return set(result["jobs"]) == {"SUCCEEDED"} and all(name.endswith(("success", "queued")) for name in result["runs"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--plays", type=int, default=10, help="how often (default 10)")
    parser.add_argument("--processes", type=int, default=10, help="that only compute beside it (default 10)")
    parser.add_argument("--report", type=Path, help="where to write what happened, as JSON")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what a play started is stopped with it
    results = []
    for number in range(1, args.plays + 1):
        result = play(args.processes)
        results.append(result | {"healthy": healthy(result)})
        print(
            f"{number}/{args.plays} {'healthy' if healthy(result) else 'NOT HEALTHY'}: {json.dumps(result)}", flush=True
        )
        if args.report:
            args.report.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(result["healthy"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
