"""Writes the fault table of docs/reliability.md: the provider's operator and our three tasks under the same faults.

    python -m reliability.fault_table [--only EXPRESSION]

A real Airflow, the real Google client, and the stand-in for Vertex AI. Every cell is what this run saw.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from local_stack.airflow_stack import REPO, AirflowStack
from reliability.fault_table.scenarios import SCENARIOS, Scenario, play_all
from reliability.fault_table.world import (
    CONNECTION,
    DEFERRABLE,
    OUR_MODULES,
    OURS,
    STOCK,
    STOCK_MODULES,
    FaultWorld,
    Outcome,
    System,
    install,
)
from reliability.quick_airflow import QUICK, preload
from rl_core.config import Settings
from stand_ins.cloud import Cloud
from stand_ins.free_port import free_port

PAGE = REPO / "docs" / "reliability.md"
BEGIN, END = "<!-- fault table: begin -->", "<!-- fault table: end -->"
SYSTEMS = (STOCK, DEFERRABLE, OURS)


def measure(folder: Path, scenarios: list[Scenario]) -> None:
    """Play the scenarios on an Airflow of its own under `folder`; each row is written as soon as it is known."""
    dags, home = folder / "dags", folder / "home"
    dags.mkdir()
    home.mkdir()
    install(dags, stock=True)
    preload(folder, *OUR_MODULES, *STOCK_MODULES)
    with Cloud(folder / "cloud") as cloud:
        vertex = cloud.vertex
        options = {
            **QUICK,
            **CONNECTION,
            "STORAGE_EMULATOR_HOST": cloud.rest_url,
            "PYTHONPATH": os.pathsep.join(map(str, (folder, REPO, REPO / "plugins"))),
        }
        stack = AirflowStack(Settings(home=home, airflow_port=free_port()), dags=dags, options=options)
        try:
            stack.start()
            install(dags, stack, stock=True)
            with contextlib.closing(FaultWorld(stack, vertex, cloud.faults)) as world:
                for scenario in scenarios:
                    began = time.monotonic()
                    line = row(scenario.name, play_all(world, SYSTEMS, scenario))
                    write(scenario.name, line)
                    print(f"{line} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
        finally:
            stack.stop(grace_s=3)
            stack.api.close()


def row(name: str, outcomes: Mapping[System, Outcome]) -> str:
    cells = [cell(outcomes[system]) if system in outcomes else "no worker waits" for system in SYSTEMS]
    return f"| {name} | {' | '.join(cells)} |"


def write(name: str, line: str) -> None:
    """Put one row into the page's table, in the order of the scenarios."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    table, _, tail = rest.partition(END)
    rows = {found.split(" | ")[0].removeprefix("| "): found for found in table.splitlines() if found.startswith("| ")}
    rows[name] = line
    lines = [
        f"Airflow {version('apache-airflow-core')}, Google provider {version('apache-airflow-providers-google')}, "
        f"google-cloud-aiplatform {version('google-cloud-aiplatform')}; every task has two retries.",
        "",
        "| fault | `RunPipelineJobOperator` | the same, deferrable | banditloop |",
        "|---|---|---|---|",
        *(rows[scenario.name] for scenario in SCENARIOS if scenario.name in rows),
    ]
    PAGE.write_text(head + BEGIN + "\n\n" + "\n".join(lines) + f"\n\n{END}{tail}")


def cell(outcome: Outcome) -> str:
    """E.g. "2 jobs (succeeded, running), **2 at once**, **1 left running**; run success"."""
    states = ", ".join(state.lower() for state in outcome.jobs)
    parts = [f"{len(outcome.jobs)} job{'' if len(outcome.jobs) == 1 else 's'}" + (f" ({states})" if states else "")]
    if outcome.most_at_once > 1:
        parts.append(f"**{outcome.most_at_once} at once**")
    if outcome.left_running:
        parts.append(f"**{outcome.left_running} left running**")
    run = "run not ended in time" if outcome.run == "running" else f"run {outcome.run}"
    return f"{', '.join(parts)}; {'**success before any job had succeeded**' if outcome.false_success else run}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m reliability.fault_table", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--only", default="", help="play the faults whose name matches this expression, leave other rows"
    )
    arguments = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if re.search(arguments.only, scenario.name)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        measure(Path(folder), scenarios)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
