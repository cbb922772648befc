"""`make up`: one Airflow for all bandits, a server and a logger for each, and where they are."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from local_stack.services import Services
from local_stack.stack import Stack
from rl_core.backends import open_backend
from rl_core.checking import read_bandits
from rl_core.config import Bandit, Settings
from rl_core.errors import BanditError, ConfigError, EndpointError


def up(only: Path | None, settings: Settings, console: Console) -> int:
    """Start what does not run yet, and leave it running; what runs stays as it is.

    Args:
        only: the YAML of the one bandit whose services are wanted; None: of every valid one in dags/bandits.

    Raises:
        BanditError: Airflow can't be started, then nothing is left running that did not run before; or a service
            can't, then all others are up.
    """
    bandits = {only: Bandit.from_yaml(only)} if only else valid_bandits(settings, console)
    stack = Stack(bandits, settings)
    ran = stack.running()
    try:
        failed = stack.start(console.print)
    except BaseException:
        stack.stop_started() if ran else stack.stop()
        raise
    for line in table([_row(one) for one in stack.services]):
        console.print(line, soft_wrap=True, markup=False)
    served = {one.bandit.name for one in stack.services}
    for bandit in stack.bandits:
        if bandit.name not in served:
            console.print(f"{bandit.name}: its DAGs are in Airflow; server and log are on Google Cloud", soft_wrap=True)
    console.print(f"Airflow:  {stack.airflow.url}")
    console.print(f"State:    {settings.home}", soft_wrap=True)
    console.print(
        "Next:     trigger a …_startup, or ask a server for decisions; then unpause its …_retrain", soft_wrap=True
    )
    console.print("See:      banditloop status. Stop with: make down. After a new YAML: make up again", soft_wrap=True)
    if failed:
        raise BanditError("; ".join(failed))
    return 0


def valid_bandits(settings: Settings, console: Console) -> dict[Path, Bandit]:
    """The valid bandits; of each other YAML the first fault is said. Raises ConfigError where none is left."""
    paths = settings.bandit_paths([])
    bandits, problems = read_bandits(paths)
    for path in paths:
        if path not in bandits:
            fault = next(line for line in problems if line.startswith(f"{path}: "))
            console.print(f"passed over {fault}", style="yellow", markup=False, soft_wrap=True)
    if not bandits:
        raise ConfigError("no YAML in dags/bandits is valid: `banditloop check` says all that is wrong")
    return bandits


def _row(services: Services) -> list[str]:
    backend = open_backend(services.bandit, services.settings)
    try:
        url = f"{backend.line().where}/docs"
    except EndpointError:
        url = "does not run"
    return [services.bandit.name, url, f"{services.bandit.name}_*", f"{services.logs}/{{serve,log}}.log"]


def table(rows: list[list[str]]) -> list[str]:
    """Align the rows under their headings."""
    cells = [["bandit", "server", "DAGs", "logs"], *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
