"""Sends simulated traffic as a task: `python -m rl_core simulate` in a process of its own, or by the function."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException

from bandit_ops.task import BanditTask
from rl_core.packing import packed

if TYPE_CHECKING:
    from airflow.sdk import Context

    from rl_core.config import Settings


class SimulateTraffic(BanditTask, BaseOperator):
    """Runs the simulator with `BANDIT_JOB_PYTHON`; its lines appear in the task's log as they are written.

    The child stays in the task's process group, which Airflow signals as a whole when the task is stopped. On backend
    gcp the task asks the simulator function instead, and ends: the function's log says how it went.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> None:
        from rl_core.config import Settings

        settings, form = Settings.from_environment(), dict(context["params"])
        if form["seed"] is None:
            form["seed"] = seed_of(context["ti"].dag_id, context["ti"].run_id)
        self.log.info("seed %s", form["seed"])
        request = {name: form[name] for name in ("decisions", "concurrency", "seed", "round")}
        if asked := self.open_backend().ask_for_traffic(request):
            self.log.info("asked %s for %s", asked, request)
        else:
            self._send(settings, request)

    def _send(self, settings: Settings, request: dict[str, Any]) -> None:
        from bandit_ops.runners.launch import child_environment
        from bandit_ops.runners.spec import ROOT

        settings = settings.model_copy(update={"definition": packed(self.bandit.model_dump_json())})
        command = [settings.job_python, "-m", "rl_core", "simulate", self.bandit.name]
        for name, value in request.items():
            command += [f"--{name}", str(value)]
        self._process = subprocess.Popen(
            command,
            env=child_environment(settings, ROOT),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with self._process as process:
            assert process.stdout is not None  # noqa: S101 - PIPE was asked for
            for line in process.stdout:
                self.log.info("%s", line.rstrip())
        if process.returncode:
            raise AirflowException(f"the simulator ended with {process.returncode}; its last lines above say why")

    def on_kill(self) -> None:
        if self._process is not None:
            self._process.terminate()


def seed_of(dag_id: str, run_id: str) -> int:
    """Derive a seed in [0, 2^31) from a run: another for each, and the same whenever the run is repeated."""
    return int.from_bytes(hashlib.sha256(f"{dag_id}\n{run_id}".encode()).digest()[:4]) >> 1
