"""The processes of pipeline jobs, as the machine sees them: who lives, and how many of one task at the same time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil

from bandit_ops.job_identity import JobIdentity
from bandit_ops.runners.job_folder import MARK

_LOOK_EVERY_S = 0.25


def living(runs: Path) -> dict[str, list[int]]:
    """The pids of every job's processes, by job id. A zombie is none."""
    wanted = f"{MARK}={runs}/".encode()
    found: dict[str, list[int]] = defaultdict(list)
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                environment = Path(entry.path, "environ").read_bytes()
                if wanted in environment:
                    job_id = environment.partition(wanted)[2].partition(b"\0")[0].decode()
                    found[job_id].append(int(entry.name))
    return dict(found)


def state_of(runs: Path, job_id: str) -> str:
    """As in `state.json`; "" before the job has begun."""
    with contextlib.suppress(OSError, ValueError):
        return str(orjson.loads((runs / job_id / "state.json").read_bytes())["state"])
    return ""


def begun_since(runs: Path, at: float) -> bool:
    """Whether a job has begun, or succeeded, since `at` (seconds since 1970)."""
    for path in runs.glob("*/state.json"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime > at and state_of(runs, path.parent.name) in ("RUNNING", "SUCCEEDED"):
                return True
    return False


def leader(runs: Path, job_id: str) -> int | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return int(orjson.loads((runs / job_id / "state.json").read_bytes())["pid"])
    return None


def kill(runs: Path, job_id: str, kind: str) -> list[int]:
    """SIGKILL to the job's process ("leader"), to all but it ("step"), or to all; returns who was killed."""
    pids = living(runs).get(job_id, [])
    first = leader(runs, job_id)
    chosen = {"leader": [p for p in pids if p == first], "step": [p for p in pids if p != first]}.get(kind, pids)
    for pid in chosen or pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.environ().get(MARK) == str(runs / job_id):
                process.kill()
    return chosen or pids


@dataclass
class JobWatch:
    """Looks four times a second how many jobs of each task are alive."""

    runs: Path
    most: Counter[str] = field(default_factory=Counter)
    overlapping: set[tuple[str, ...]] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="job watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    @property
    def most_at_once(self) -> int:
        return max(self.most.values(), default=0)

    def successes(self) -> Counter[str]:
        """How many jobs of each task succeeded."""
        scopes: Counter[str] = Counter()
        for folder in self.runs.glob("*/"):
            scopes[_scope(folder.name)] += state_of(self.runs, folder.name) == "SUCCEEDED"
        return scopes

    def failures(self) -> Counter[str]:
        """Why jobs failed, and how often."""
        reasons: Counter[str] = Counter()
        for path in self.runs.glob("*/state.json"):
            with contextlib.suppress(OSError, ValueError):
                content = orjson.loads(path.read_bytes())
                if content["state"] == "FAILED":
                    reasons[content["message"][:160]] += 1
        return reasons

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            tasks: dict[str, list[str]] = defaultdict(list)
            for job_id, pids in living(self.runs).items():
                self.seen.add(job_id)
                if not self._ended(job_id, pids):
                    tasks[_scope(job_id)].append(job_id)
            for scope, jobs in tasks.items():
                self.most[scope] = max(self.most[scope], len(jobs))
                if len(jobs) > 1:
                    self.overlapping.add(tuple(sorted(jobs)))

    def _ended(self, job_id: str, pids: list[int]) -> bool:
        """Its verdict is written, and nothing but the process that wrote it is still on its way out."""
        ended = state_of(self.runs, job_id) in ("SUCCEEDED", "FAILED", "CANCELLED")
        return ended and set(pids) <= {leader(self.runs, job_id)}


def _scope(job_id: str) -> str:
    """What the jobs of one task in one run have in common, of whatever attempt and generation."""
    try:
        return JobIdentity.parse(job_id).scope
    except ValueError:
        return job_id
