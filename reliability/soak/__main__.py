"""Soak server and event logger, and write the report: `make soak`.

    python -m reliability.soak [--minutes 15] [--rate 200] [--every 30] [--out var/soak/report.json]

Ends with 0 where no request failed and memory stayed flat, 1 where not, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from reliability.command import conclude, interrupt_on_signals
from reliability.progress import Progress
from reliability.soak.soak import Size, Soak, broken
from rl_core.config import Settings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m reliability.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=15, help="of traffic (default 15)")
    parser.add_argument("--rate", type=float, default=200, help="decisions a second (default 200)")
    parser.add_argument("--every", type=float, default=30, help="seconds between trainings, at least (default 30)")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic (default 1)")
    parser.add_argument("--quick", action="store_true", help="train in this process, without real pipelines")
    parser.add_argument("--swaps", type=int, default=3, help="fewer prove nothing (default 3)")
    parser.add_argument("--out", type=Path, help="the report (default $BANDIT_HOME/soak/report.json)")
    return parser


def table(report: dict[str, Any]) -> Table:
    shown = Table(title=f"soak: {report['seconds']:.0f} s at {report['rate']:g}/s", box=SIMPLE_HEAD, padding=0)
    shown.add_column("figure")
    shown.add_column("seen", justify="right")
    for name in ("requests", "failed", "swaps", "failed_within_1s_of_swap", "p50_ms", "p99_ms"):
        shown.add_row(name, str(report[name]))
    shown.add_row("p99_within_1s_of_swap_ms", str(report["p99_within_1s_of_swap_ms"]))
    for name, held in report["rss"].items():
        seen = f"{held['start_mib']} → {held['end_mib']} MiB ({held['slope_mib_per_h']:+} MiB/h)"
        shown.add_row(f"memory of the {name}", seen)
    return shown


def plot(path: Path, soak: Soak) -> None:
    """Latency of every prediction, the swaps, and the memory of both programs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    asked = [request for request in soak.load.requests if request.path == "/predict"]
    if not asked:
        return
    begin = asked[0].at
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 6), sharex=True, layout="constrained")
    above.semilogy([r.at - begin for r in asked], [1e3 * r.took_s for r in asked], ",", rasterized=True)
    for swap in sorted(soak.load.first_answer.values())[1:]:
        above.axvline(swap - begin, color="0.6", linewidth=0.7)
    above.set(ylabel="ms, a line for each swap")
    for name, samples in soak.memory.samples.items():
        below.plot([at - begin for at, _ in samples], [held for _, held in samples], label=name)
    below.set(ylabel="resident MiB", xlabel="seconds", ylim=(0, None))
    below.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    out: Path = (args.out or Settings.from_environment().home / "soak" / "report.json").absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    progress = Progress(console)
    size = Size(60 * args.minutes, args.rate, args.every, args.seed, args.quick)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        soak = Soak(size, Path(folder), progress.tell)
        try:
            report = soak.run()
        finally:
            progress.stop()
        logs = {path.name: path.read_text(errors="replace") for path in (Path(folder) / "logs").glob("*.log")}
    problems = broken(report, args.swaps)
    out.write_text(json.dumps(report, indent=2) + "\n")
    plot(out.with_name("soak.png"), soak)
    console.print(table(report))
    if problems:
        for name, text in logs.items():
            (out.parent / name).write_text(text)
    return conclude(console, out, problems, out.parent, report)


if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(run())
