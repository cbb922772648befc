"""Starts and stops one Airflow, and the services of each bandit: `make up`, `make down` and the demo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bandit_ops.runners.local import cancel_all
from local_stack.airflow_stack import AirflowStack
from local_stack.ports import give_ports, require_free_port
from local_stack.service_record import ServiceRecord
from local_stack.services import Services
from local_stack.signals import uninterrupted
from rl_core.backends import backend_class
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError, ConfigError

PORT = "BANDIT_SERVER_PORT"


class Stack:
    """Airflow and the services; `stop` also ends pipeline jobs, which lead sessions of their own.

    Args:
        bandits: by their YAML; those whose server and logger are on Google Cloud have their DAGs here, and no more.
        airflow: default: the one of the settings, with the DAGs of this repository.
    """

    def __init__(self, bandits: Mapping[Path, Bandit], settings: Settings, airflow: AirflowStack | None = None) -> None:
        self.bandits, self.settings = tuple(bandits.values()), settings
        self.airflow = airflow or AirflowStack(settings)
        self._began_airflow = False
        env = self.airflow.environment()
        here = {path: bandit for path, bandit in bandits.items() if not backend_class(bandit).JOINED_BY_DAG}
        self.services = [Services(path, bandit, settings, env) for path, bandit in here.items()]

    def start(self, progress: Callable[[str], None]) -> list[str]:
        """Start what does not run yet; return once Airflow is healthy, its DAGs are loaded and the servers answer.

        Returns, in words, which services could not be started; all others are up.
        Raises PortBusy, BanditError, ConfigError.
        """
        if not (runs := self.airflow.running()):
            require_free_port(self.settings.airflow_port, "BANDIT_AIRFLOW_PORT")
        elif ended := self.airflow.ended():
            raise BanditError(f"Airflow's {', '.join(ended)} ended by itself; start all anew: make down, make up")
        failed = self.start_services()
        progress(f"prediction servers and event loggers: {len(self.services) - len(failed)} up, {len(failed)} failed")
        if not runs:
            self._began_airflow = True
            self.airflow.start(progress=progress)
        self.airflow.wait_for_dags([f"{one.name}_{dag}" for one in self.bandits for dag in ("startup", "retrain")])
        return failed

    def start_services(self) -> list[str]:
        """Start servers and loggers that do not run; return, in words, which could not be started.

        Raises PortBusy, ConfigError.
        """
        ports = self._ports()
        for one in self.services:
            one.begin(ports.get(one.bandit.id))
        failed = []
        for one in self.services:
            try:
                one.wait(30 + 5 * len(self.services))
            except BanditError as error:
                failed.append(str(error))
        return failed

    def stop(self) -> None:
        """End everything; what is already gone is passed over. An impatient second Ctrl-C waits for the end of it."""
        with uninterrupted():
            self.airflow.stop()
            cancel_all(self.settings.home)
            for one in self.services:
                one.stop()
            for record in ServiceRecord.all_of(self.settings.home):  # of bandits whose YAML is gone, too
                record.stop()

    def stop_started(self) -> None:
        """End what this object started; what ran before stays."""
        with uninterrupted():
            if self._began_airflow:
                self.airflow.stop()
            for one in self.services:
                one.stop_started()

    def running(self) -> bool:
        return self.airflow.running() or any(one.running() for one in ServiceRecord.all_of(self.settings.home))

    def _ports(self) -> dict[str, int]:
        """For each server that does not run, by the bandit's id."""
        waiting = [one.bandit for one in self.services if "serve" not in one.running()]
        if len(self.services) > 1 and self.settings.server_url:
            raise ConfigError("BANDIT_SERVER_URL names one server, and there are several: unset it, or name a --bandit")
        if len(self.services) == 1 and waiting and self.settings.server_port:
            require_free_port(self.settings.server_port, PORT)
        return give_ports({bandit.id: self.settings.server_port_of(bandit) for bandit in waiting})
