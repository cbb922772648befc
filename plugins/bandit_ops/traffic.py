"""Simulated traffic as a task: `python -m rl_core simulate` in a process of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException

if TYPE_CHECKING:
    from airflow.sdk import Context


class SimulateTraffic(BaseOperator):
    """Runs the simulator with `BANDIT_JOB_PYTHON`; its lines appear in the task's log as they are written.

    The child stays in the task's process group, which Airflow signals as a whole when the task is stopped.
    """

    def __init__(self, *, bandit_yaml: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bandit_yaml = bandit_yaml
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> None:
        from rl_core.config import Settings

        form = context["params"]
        command = [Settings.from_environment().job_python, "-m", "rl_core", "simulate", str(self.bandit_yaml)]
        for name in ("decisions", "concurrency", "seed", "round"):
            command += [f"--{name}", str(form[name])]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with self._process as process:
            assert process.stdout is not None  # noqa: S101 - PIPE was asked for
            for line in process.stdout:
                self.log.info("%s", line.rstrip())
        if process.returncode:
            raise AirflowException(f"the simulator ended with {process.returncode}; its last lines above say why")

    def on_kill(self) -> None:
        if self._process is not None:
            self._process.terminate()
