"""A real Airflow on this machine: scheduler, dag-processor, triggerer and api-server, started, watched and stopped.

Four processes of our own instead of `airflow standalone`, whose children outlive a SIGTERM. Each leads a session of its
own, so whatever it forks can be found and ended; pipeline jobs lead sessions of theirs and live on, as they should.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil

from local_stack.airflow_api import AirflowApi
from local_stack.ports import require_free_port
from local_stack.postgres import Postgres
from local_stack.processes import identified, identity, living, send
from local_stack.signals import uninterrupted
from rl_core.config import Settings
from rl_core.errors import BanditError
from rl_core.waiting import wait_for

REPO = Path(__file__).resolve().parent.parent
COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
DATABASE = "postgres"
HEALTH = ("metadatabase", "scheduler", "triggerer", "dag_processor")
LOCK_WAIT_S, API_SERVER_LOCK_WAIT_S = 60, 3
"""How long Airflow waits for a lock of its SQLite. A scheduler that gives up misses a heartbeat or dies, and the usual
five seconds are short for two cores. An api-server gives up sooner: it may be waiting for itself (`AirflowApi.request`
says how), and answers nobody meanwhile.
"""


class AirflowStack:
    """An Airflow under `settings.home / "airflow"`, listening on 127.0.0.1:`settings.airflow_port`."""

    def __init__(
        self,
        settings: Settings,
        *,
        dags: Path | None = None,
        root: Path = REPO,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """`dags` replaces the repository's folder, `root` the place rl_core and pipeline_defs are imported from.

        `options` are further `AIRFLOW__SECTION__KEY` variables.
        """
        self.settings = settings
        self.home = settings.home / "airflow"
        self.url = f"http://127.0.0.1:{settings.airflow_port}"
        self.api = AirflowApi(self.url)
        self._dags = dags or REPO / "dags"
        self._root = root
        self._options = dict(options or {})
        self._pids = self.home / "stack.json"
        self._postgres = Postgres(self.home / DATABASE, self._log(DATABASE))
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, timeout_s: float = 180, progress: Callable[[str], None] | None = None) -> None:
        """Return once all four components are healthy. Raises PortBusy, or BanditError with the reason."""
        tell = progress or (lambda _: None)
        if self.running():
            raise BanditError(f"Airflow runs already under {self.home}; stop it first (make down)")
        require_free_port(self.settings.airflow_port, "BANDIT_AIRFLOW_PORT")
        (self.home / "logs" / "components").mkdir(parents=True, exist_ok=True)
        self._children = []
        self._pids.unlink(missing_ok=True)
        tell("preparing Airflow's database")
        if self._takes_postgres(tell):
            self._postgres.create()
            server = self._begin({DATABASE: self._postgres.spawn})[DATABASE]
            self._postgres.wait(server, timeout_s)
        self._migrate()
        tell("starting scheduler, dag-processor, triggerer and api-server")
        leaders = self._begin({name: partial(self._spawn, name) for name in COMPONENTS})
        wait_for(lambda: self._healthy(leaders), timeout_s, f"Airflow to be healthy; see {self.home}/logs/components")
        tell(f"Airflow is ready at {self.url}")

    def stop(self, grace_s: float = 10) -> None:
        """End every process of this Airflow, started by whichever program; return once they are gone.

        The scheduler goes first and lets running tasks end within `grace_s` while the api-server still answers them.
        """
        leaders = self._leaders()
        others = ("dag-processor", "triggerer", "api-server")
        for names, wait_s in ((("scheduler",), grace_s), (others, 5.0), ((DATABASE,), 10.0)):
            going = [leaders[name] for name in names if name in leaders]
            # At SIGTERM PostgreSQL would wait for its clients to go; at SIGINT it sends them away.
            send(signal.SIGINT if DATABASE in names else signal.SIGTERM, going)
            psutil.wait_procs(going, timeout=wait_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to all at once, as a power cut would: no goodbye, nothing finished."""
        sessions = self._sessions()

        def gone() -> bool:
            left = _members(sessions)
            send(signal.SIGKILL, left)
            psutil.wait_procs(left, timeout=2)
            return not _members(sessions)

        wait_for(gone, 20, f"the processes of sessions {sorted(sessions)} to be gone", poll_s=0.1)
        for child in self._children:
            child.wait()
        self._pids.unlink(missing_ok=True)

    def leader(self, name: str) -> psutil.Process:
        """The process of one component, e.g. "scheduler"."""
        return self._leaders()[name]

    def restart(self, name: str, timeout_s: float = 180) -> None:
        """End one component, if it has not ended yet, and what it left; return once a new one is healthy."""
        old = self._leaders()[name]
        session = {old.pid}
        send(signal.SIGTERM, [old])
        psutil.wait_procs([old], timeout=5)
        send(signal.SIGKILL, _members(session))
        new = self._begin({name: partial(self._spawn, name)})
        wait_for(lambda: self._healthy(new), timeout_s, f"a new {name} to be healthy")

    def running(self) -> bool:
        return bool(_members(self._sessions()))

    def ended(self) -> list[str]:
        """Return the components that were started and live no more."""
        living = {name for name, one in self._leaders().items() if one.status() != psutil.STATUS_ZOMBIE}
        return [name for name in self._recorded() if name not in living]

    def processes(self) -> list[psutil.Process]:
        """Every live process of this Airflow: components, workers, tasks."""
        return _members(self._sessions())

    def wait_for_dags(self, dag_ids: list[str], timeout_s: float = 180) -> None:
        """Return once the dag-processor has stored these DAGs. Raises BanditError with the reason why one can't be."""

        def stored() -> bool:
            missing = set(dag_ids) - set(self.api.dags())
            errors = self.api.import_errors() if missing else {}
            for dag_id in missing:
                if reason := errors.get(f"{dag_id.rpartition('_')[2]}.py"):
                    raise BanditError(f"Airflow can't load {dag_id}: {reason}")
            return not missing

        wait_for(stored, timeout_s, f"the DAGs {', '.join(dag_ids)}")

    def environment(self, component: str = "") -> dict[str, str]:
        """The variables of a component: this process's own, the settings, and Airflow's configuration."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "BANDIT_"))}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # doubles every start-up
        return {**inherited, **self.settings.variables(), **self._airflow_configuration(component), **self._options}

    def _airflow_configuration(self, component: str) -> dict[str, str]:
        port = str(self.settings.airflow_port)
        return {
            "AIRFLOW_HOME": str(self.home),
            "PYTHONPATH": f"{self._root}{os.pathsep}{REPO / 'plugins'}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database_url(component),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self._dags),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "6",  # LocalExecutor forks that many workers at once
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # bound to loopback
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": port,
            "AIRFLOW__API__BASE_URL": self.url,  # or every task calls the default port and dies
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            # After a power cut, tasks of the scheduler that is gone are taken up again within half a minute, not five.
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
            "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "10",  # 5 end a try within seconds while the api-server restarts
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }

    def database_url(self, component: str = "") -> str:
        """Return the address of Airflow's database for SQLAlchemy: PostgreSQL's while that runs, else SQLite's."""
        if DATABASE in self._leaders():
            return self._postgres.url()
        lock_wait_s = API_SERVER_LOCK_WAIT_S if component == "api-server" else LOCK_WAIT_S
        return f"sqlite:///{quote(str(self.home))}/airflow.db?timeout={lock_wait_s}"

    def _takes_postgres(self, tell: Callable[[str], None]) -> bool:
        """Whether Airflow's state is, or is to be, in PostgreSQL. Raises BanditError where it should be and can't."""
        asked = self.settings.airflow_db
        if asked == "sqlite":
            return False
        kept = self._postgres.data.exists()
        if asked == "auto" and not kept and (self.home / "airflow.db").exists():
            tell("Airflow keeps to the SQLite that it has; `make clean` begins with PostgreSQL")
            return False
        reason = self._postgres.unfit()
        if reason and (asked == "postgres" or kept):
            raise BanditError(f"{reason}; BANDIT_AIRFLOW_DB=sqlite begins with an empty SQLite instead")
        if reason:
            tell(f"Airflow's database is SQLite, which answers some clicks with 500 under load: {reason}")
        return not reason

    def _migrate(self) -> None:
        file = self.home / (DATABASE if DATABASE in self._leaders() else "airflow.db")
        marker = self.home / f"migrated-{version('apache-airflow-core')}-{file.name}"
        if marker.exists() and file.exists():
            return
        log = self._log("db-migrate")
        with log.open("wb") as out:
            command = [sys.executable, "-m", "airflow", "db", "migrate"]
            done = subprocess.run(command, env=self.environment(), stdout=out, stderr=out, check=False)
        if done.returncode:
            raise BanditError(f"airflow db migrate failed with {done.returncode}; see {log}")
        marker.touch()

    def _log(self, name: str) -> Path:
        return self.home / "logs" / "components" / f"{name}.log"

    def _begin(self, spawns: Mapping[str, Callable[[], subprocess.Popen[bytes]]]) -> dict[str, subprocess.Popen[bytes]]:
        """Start and record processes, so that another program, too, can end them."""
        with uninterrupted():
            begun = {name: spawn() for name, spawn in spawns.items()}
            self._children += begun.values()
            recorded = {**self._recorded(), **{name: identity(child.pid) for name, child in begun.items()}}
            self._pids.write_text(json.dumps(recorded))
        return begun

    def _spawn(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "airflow", *COMPONENTS[name]]
        with self._log(name).open("ab") as out:
            return subprocess.Popen(
                command,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=self.home,
            )

    def _healthy(self, leaders: Mapping[str, subprocess.Popen[bytes]]) -> bool:
        for name, leader in leaders.items():
            if leader.poll() is not None:
                raise BanditError(
                    f"Airflow's {name} ended with {leader.returncode} while starting; see {self._log(name)}"
                )
        try:
            self.api.execution_health()
            health = self.api.health()
        except (httpx.HTTPError, ValueError):
            return False
        started = min(psutil.Process(leader.pid).create_time() for leader in leaders.values())
        return all(health[part]["status"] == "healthy" and _beat_after(health[part], started) for part in HEALTH)

    def _recorded(self) -> dict[str, tuple[int, float]]:
        if not self._pids.exists():
            return {}
        return {name: (pid, born) for name, (pid, born) in json.loads(self._pids.read_text()).items()}

    def _leaders(self) -> dict[str, psutil.Process]:
        found = {}
        for name, (pid, born) in self._recorded().items():
            if process := identified(pid, born):
                found[name] = process
        return found

    def _sessions(self) -> set[int]:
        """The recorded sessions; one whose leader's pid now belongs to a stranger is left out."""
        alive = {process.pid for process in self._leaders().values()}
        return {pid for pid, _ in self._recorded().values() if pid in alive or not psutil.pid_exists(pid)}


def _members(sessions: set[int]) -> list[psutil.Process]:
    """PostgreSQL's processes lead sessions of their own, and are children of its first."""
    return living(lambda process: os.getsid(process.pid) in sessions or process.ppid() in sessions)


def _beat_after(part: dict[str, Any], started: float) -> bool:
    """Whether the heartbeat is of this start and not of the one before."""
    beats = [value for key, value in part.items() if key.endswith("_heartbeat")]
    return all(beat is not None and datetime.fromisoformat(beat).timestamp() >= started for beat in beats)
