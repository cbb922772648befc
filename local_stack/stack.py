"""Starts and stops Airflow and the services of one bandit together: `make up`, `make down` and the demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bandit_ops.runners.local import LocalRunner
from local_stack.airflow_stack import AirflowStack
from local_stack.ports import require_free_port
from local_stack.services import Services
from local_stack.signals import uninterrupted
from rl_core.config import Bandit, Settings

REPO = Path(__file__).resolve().parent.parent


class Stack:
    """Airflow and the services; `stop` also ends pipeline jobs, which lead sessions of their own."""

    def __init__(self, bandit_yaml: Path, settings: Settings) -> None:
        self.bandit = Bandit.from_yaml(bandit_yaml)
        self.settings = settings
        self.airflow = AirflowStack(settings)
        self.services = Services(bandit_yaml, self.bandit, settings, self.airflow.environment())

    def start(self, progress: Callable[[str], None]) -> None:
        """Start all; return once Airflow is healthy, its DAGs are loaded and the server answers.

        Raises PortBusy, BanditError.
        """
        port = self.settings.server_port_of(self.bandit)
        if not self.services.processes():
            require_free_port(port, "BANDIT_SERVER_PORT (or serving.port of the bandit)")
        if not self.airflow.running():
            require_free_port(self.settings.airflow_port, "BANDIT_AIRFLOW_PORT")
        self.services.start()
        progress(f"prediction server and event logger are up on port {port}")
        self.airflow.start(progress=progress)
        self.airflow.wait_for_dags([f"{self.bandit.name}_{dag}" for dag in ("startup", "retrain")])

    def stop(self) -> None:
        """End everything; what is already gone is passed over. An impatient second Ctrl-C waits for the end of it."""
        with uninterrupted():
            self.airflow.stop()
            self.cancel_jobs()
            self.services.stop()

    def running(self) -> bool:
        return self.airflow.running() or bool(self.services.processes())

    def cancel_jobs(self) -> None:
        """Cancel every pipeline job of the bandit."""
        runner = LocalRunner(self.bandit, self.settings)
        for job_id in runner.active():
            runner.cancel(job_id)
