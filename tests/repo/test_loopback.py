"""Nothing listens beyond loopback by default. The compose files: `test_compose.py`."""

from __future__ import annotations

import ast
import ipaddress
from contextlib import ExitStack
from pathlib import Path

import psutil

from local_stack.airflow_stack import COMPONENTS, AirflowStack
from rl_core.config import Bandit, Serving, Settings
from tests.e2e.conftest import Site
from tests.harness.patience import until

ROOMS = ("rl_core", "plugins", "pipeline_defs", "dags", "local_stack", "stand_ins", "functions", "scripts")
MEANT = {
    "rl_core/serving/server.py": "in a container, which Vertex AI or compose asks from outside",
    "stand_ins/serving.py": "how to reach oneself where --host said so",
}


def test_a_bandit_is_served_on_loopback(repo: Path) -> None:
    assert ipaddress.ip_address(Serving().host).is_loopback
    for path in (repo / "dags" / "bandits").glob("*.yaml"):
        assert ipaddress.ip_address(Bandit.from_yaml(path).serving.host).is_loopback, path.name


def test_airflow_listens_on_loopback(settings: Settings) -> None:
    variables = AirflowStack(settings).environment()
    assert variables["AIRFLOW__API__HOST"] == "127.0.0.1"
    for name in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in COMPONENTS[name], "its log server would listen everywhere"
    assert "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK" not in variables, "its health server would listen everywhere"


def test_the_stand_ins_listen_on_loopback() -> None:
    from stand_ins.__main__ import build_parser

    assert build_parser().get_default("host") == "127.0.0.1"


def test_no_program_of_ours_names_another_address(repo: Path) -> None:
    named = {
        f"{path.relative_to(repo)}:{node.lineno}"
        for room in ROOMS
        for path in (repo / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in {"0.0.0.0", "::"}  # noqa: S104
    }
    assert {place.partition(":")[0] for place in named} <= MEANT.keys()


def test_server_and_logger_listen_nowhere_else(repo: Path, movielens: Bandit, settings: Settings) -> None:
    with ExitStack() as stack:
        site = Site(repo, movielens, settings, stack)
        site.promote(1)
        programs = [site.serve(), site.run("log")]
        until((site.state_dir / "logger.json").exists, "the logger to run")
        listening = {
            (connection.laddr.ip, connection.laddr.port)
            for program in programs
            for connection in psutil.Process(program.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
    assert listening == {("127.0.0.1", site.port)}
