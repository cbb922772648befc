"""Starts the process of a local job: detached, marked, and holding the folder's lock."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bandit_ops.runners.job_folder import MARK, JobFolder
from rl_core.config import Settings
from rl_core.errors import RunnerError, RunnerUnavailable

START_TIMEOUT_S = 60.0


def launch(job: JobFolder, lock: int, settings: Settings, root: Path) -> None:
    """Start the job's process; return once it has detached and has inherited the lock.

    Raises:
        RunnerError: BANDIT_JOB_PYTHON can't be executed or lacks packages; nothing runs.
        RunnerUnavailable: it took too long or was killed, as on a machine without free memory; nothing runs.
    """
    environment = child_environment(settings, root) | {MARK: str(job.path)}
    command = [settings.job_python, "-m", "pipeline_defs.run_local", str(job.path), "--lock", str(lock)]
    with (job.path / "log.txt").open("wb") as log:
        try:
            subprocess.run(
                command,
                cwd=job.path,
                env=environment,
                pass_fds=[lock],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=START_TIMEOUT_S,
            )
        except (OSError, subprocess.SubprocessError) as error:
            if not job.cancel_asked:  # a cancel ends the process before it can detach
                raise _failed(job, settings, error) from error


def _failed(job: JobFolder, settings: Settings, error: Exception) -> RunnerError:
    """Whether it can't run here, or was only kept from it this time."""
    if isinstance(error, subprocess.TimeoutExpired):
        return RunnerUnavailable(f"{job.path.name}: {settings.job_python} did not start within {START_TIMEOUT_S:.0f} s")
    if isinstance(error, subprocess.CalledProcessError) and error.returncode < 0:
        return RunnerUnavailable(f"{job.path.name}: killed by signal {-error.returncode} while it started")
    return unfit(job, settings, error)


def unfit(job: JobFolder, settings: Settings, reason: object) -> RunnerError:
    """Make the error for a BANDIT_JOB_PYTHON that can't run pipelines."""
    return RunnerError(
        f"BANDIT_JOB_PYTHON={settings.job_python} can't run pipelines ({job.log_tail() or reason}); "
        f"point it at a Python with the packages of requirements/job.txt"
    )


def child_environment(settings: Settings, root: Path) -> dict[str, str]:
    """Return the environment of BANDIT_JOB_PYTHON with rl_core of `root`: our variables, with these settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BANDIT_")}
    return {**inherited, **settings.variables(), "PYTHONPATH": str(root)}
