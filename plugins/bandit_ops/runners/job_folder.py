"""The folder of one local run, and the only truth about it: a lock that its process holds for life, and a verdict.

lock        held exclusively by whoever starts the job, then by the job's process until it dies
job.json    what to run          spec.yaml   the pipeline, filled in
state.json  RUNNING once the process has begun, then the verdict
steps.json, log.txt              what people read
cancel      somebody asked for the end
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bandit_ops.runners.base import JobState, JobStatus
from rl_core.errors import RunnerError, RunnerUnavailable
from rl_core.files import write_atomically
from rl_core.waiting import looks

MARK = "BANDITLOOP_JOB_FOLDER"
"""Environment variable that every process of a job inherits: it tells the job's processes from all others."""


class JobFolder:
    """One run's folder, as the runner and the job's process read and write it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def verdict(self) -> JobStatus | None:
        """Read the status in `state.json`; None before the process has begun."""
        try:
            content: dict[str, Any] = json.loads((self.path / "state.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunnerError(f"{self.path / 'state.json'}: not JSON ({error}); remove the folder") from error
        return JobStatus(JobState(content["state"]), content["message"], content["outputs"])

    def settle(self) -> JobStatus | None:
        """Return the job's status; first give a job whose process died without a verdict one, and kill what it left.

        None where the job never began: nothing has run, and it can be started under this id.
        """
        found = self.verdict()
        if found is not None and found.state.terminal:
            return found
        with self.locked(shared=found is None) as free:
            found = self.verdict()  # it may have ended since
            if not free:
                return found or JobStatus(JobState.PENDING)
            if found is None and not self.cancel_asked:
                return None
            if found is not None and found.state.terminal:
                return found
            return self._close(found.outputs if found else {})

    def ask_cancel(self) -> None:
        """Ask the job's process to end."""
        (self.path / "cancel").touch()

    @property
    def cancel_asked(self) -> bool:
        return (self.path / "cancel").exists()

    @contextmanager
    def locked(self, *, shared: bool = False) -> Iterator[int | None]:
        """Hold the lock; yields its descriptor, or None where a starter, the job, or another `settle` holds it."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield descriptor
        finally:
            os.close(descriptor)

    def signal_all(self, number: signal.Signals) -> int:
        """Signal every living process of this job; returns how many there were."""
        import psutil

        count = 0
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.path) and process.status() != psutil.STATUS_ZOMBIE:
                    process.send_signal(number)  # psutil makes sure that the id still means this process
                    count += 1
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return count

    def kill_all(self, timeout_s: float = 10.0) -> None:
        """Kill every process of this job; return once none is left. Raises RunnerUnavailable."""
        for _ in looks(timeout_s, 0.02):
            if not self.signal_all(signal.SIGKILL):
                return
        raise RunnerUnavailable(f"{self.path.name}: processes survive SIGKILL for {timeout_s:.0f} s; look for {MARK}")

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of the log as one line."""
        try:
            text = (self.path / "log.txt").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip())

    def _close(self, outputs: dict[str, Any]) -> JobStatus:
        """The lock is ours, so the job's process is dead; its steps may not be."""
        self.kill_all()
        if self.cancel_asked:
            closed = JobStatus(JobState.CANCELLED, "cancelled", outputs)
        else:
            closed = JobStatus(JobState.FAILED, "died without a verdict (killed?)", outputs)
        content = {"state": closed.state, "message": closed.message, "outputs": outputs}
        self._close_step(closed.state)
        write_atomically(self.path / "state.json", json.dumps(content).encode())
        return closed

    def _close_step(self, state: JobState) -> None:
        path = self.path / "steps.json"
        if path.exists():
            steps = json.loads(path.read_bytes())
            for step in steps:
                if step["state"] == "RUNNING":
                    step["state"] = str(state)
            write_atomically(path, json.dumps(steps).encode())
