"""Writes the fault table of docs/reliability.md: the provider's operator and our three tasks under the same faults.

    python -m benchmarks.fault_table [--only TEXT] [--print]

A real Airflow, the real Google client, and the stand-in for Vertex AI. Every cell is what this run saw.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.fault_table.scenarios import SCENARIOS, Scenario, play_all
from benchmarks.fault_table.world import (
    CONNECTION,
    DEFERRABLE,
    OURS,
    QUICK,
    STOCK,
    FaultWorld,
    Outcome,
    System,
    install,
)
from local_stack.airflow_stack import AirflowStack
from rl_core.config import Settings
from stand_ins.cloud import Cloud
from stand_ins.free_port import free_port

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- fault table: begin -->", "<!-- fault table: end -->"
SYSTEMS = (STOCK, DEFERRABLE, OURS)
Rows = dict[str, Mapping[System, Outcome]]


def measure(folder: Path, scenarios: list[Scenario]) -> Rows:
    """Play every scenario on an Airflow of its own under `folder`."""
    dags, home = folder / "dags", folder / "home"
    dags.mkdir()
    home.mkdir()
    install(dags, stock=True)
    rows: Rows = {}
    with Cloud(folder / "cloud") as cloud:
        vertex = cloud.vertex
        options = {**QUICK, **CONNECTION, "STORAGE_EMULATOR_HOST": cloud.rest_url}
        stack = AirflowStack(Settings(home=home, airflow_port=free_port()), dags=dags, options=options)
        try:
            stack.start()
            install(dags, stack, stock=True)
            world = FaultWorld(stack, vertex, cloud.faults)
            for scenario in scenarios:
                began = time.monotonic()
                rows[scenario.name] = play_all(world, SYSTEMS, scenario)
                told = "; ".join(f"{system.name}: {outcome}" for system, outcome in rows[scenario.name].items())
                print(f"{scenario.name} ({time.monotonic() - began:.0f} s): {told}", file=sys.stderr, flush=True)
        finally:
            stack.stop(grace_s=3)
            stack.api.close()
    return rows


def table(rows: Rows) -> str:
    lines = [
        f"Airflow {version('apache-airflow-core')}, Google provider {version('apache-airflow-providers-google')}, "
        f"google-cloud-aiplatform {version('google-cloud-aiplatform')}; every task has two retries.",
        "",
        "| fault | `RunPipelineJobOperator` | the same, deferrable | banditloop |",
        "|---|---|---|---|",
    ]
    for name, outcomes in rows.items():
        cells = [cell(outcomes[system]) if system in outcomes else "no worker waits" for system in SYSTEMS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
        prog="python -m benchmarks.fault_table", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", default="", help="scenarios whose name has this text in it; then nothing is written")
    parser.add_argument("--print", action="store_true", help="print the table, and leave the page as it is")
    arguments = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if arguments.only in scenario.name]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        written = table(measure(Path(folder), scenarios))
    if arguments.print or arguments.only:
        print(written)
        return 0
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{written}\n\n{END}{rest.partition(END)[2]}")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
