"""Play a storm and write its report: `make faults`.

    python -m reliability.storm [--seed 1] [--kills 200] [--decisions 10000] [--seconds 720] [--without-airflow]

Ends with 0 where every promise was kept, 1 where one was broken, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from reliability.command import conclude, interrupt_on_signals
from reliability.progress import Progress
from reliability.storm import report as reports
from reliability.storm.disk import enter
from reliability.storm.storm import Size, Storm
from rl_core.config import Settings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reliability.storm", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="of faults and traffic (default 1)")
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs (default 200)")
    parser.add_argument("--decisions", type=int, default=10_000, help="acknowledged decisions at least (default 10000)")
    parser.add_argument("--seconds", type=float, default=720, help="over which the faults are spread (default 720)")
    parser.add_argument(
        "--pause", type=float, default=0.25, help="between two events of a client, seconds (default 0.25)"
    )
    parser.add_argument("--without-airflow", action="store_true", help="train through the runner alone")
    parser.add_argument("--without-corruption", action="store_true", help="leave the message bus undamaged")
    parser.add_argument("--out", type=Path, help="the report (default $BANDIT_HOME/faults/report.json)")
    return parser


def run(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    out: Path = (args.out or Settings.from_environment().home / "faults" / "report.json").absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    size = Size(
        args.seed,
        args.kills,
        args.decisions,
        args.seconds,
        airflow=not args.without_airflow,
        corruption=not args.without_corruption,
        pause_s=args.pause,
    )
    progress = Progress(console)
    with tempfile.TemporaryDirectory(prefix="storm-", ignore_cleanup_errors=True) as folder:
        storm = Storm(size, Path(folder), progress.tell)
        try:
            report = storm.run()
            progress.stop()
            problems = reports.broken(report, {"acknowledged": size.decisions, "kills": size.kills})
            if problems:
                storm.keep_evidence(out.parent / "evidence")
        finally:
            progress.stop()
            storm.close()
    reports.write(report, out)
    reports.plot(out.with_name("storm.png"), storm.traffic.acknowledged_times, storm.strikes)
    console.print(reports.table(report))
    return conclude(console, out, problems, out.parent / "evidence", report)


if __name__ == "__main__":
    enter("reliability.storm", sys.argv[1:])
    interrupt_on_signals()
    sys.exit(run())
