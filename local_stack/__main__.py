"""`python -m local_stack`: what `make demo`, `make up` and `make down` call."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from rl_core.config import Settings
from rl_core.errors import BanditError, ConfigError

console = Console(highlight=False)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="run the whole loop once and write report.json")
    demo.add_argument(
        "--rounds", type=int, choices=range(1, 21), metavar="N", default=3, help="sensor-triggered retrains (default 3)"
    )
    demo.add_argument("--bandit", default="movielens", help="a name in dags/bandits (default movielens)")
    commands.add_parser("example", help="play a news front page, from a CSV to the third retrain, without Airflow")
    up = commands.add_parser("up", help="start what does not run yet, for every bandit, and leave it running")
    up.add_argument("--bandit", help="server and logger of this one only: a name in dags/bandits")
    commands.add_parser("down", help="stop what up (or an interrupted demo) started")
    commands.add_parser("clean", help="delete all state under BANDIT_HOME, unless something runs")
    return parser


def run(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    settings = Settings.from_environment()
    if args.command == "example":
        from local_stack import example

        return example.main(settings, console)
    if args.command == "demo":
        from local_stack.demo import Demo

        Demo(_yaml(args.bandit, settings), settings, args.rounds, console).run()
        return 0
    if args.command == "up":
        from local_stack.up import up

        return up(None if args.bandit is None else _yaml(args.bandit, settings), settings, console)
    return {"down": _down, "clean": _clean}[args.command](settings)


def _yaml(name: str, settings: Settings) -> Path:
    """The YAML of that name. Raises ConfigError."""
    if Path(name).suffix or Path(name).name != name:
        raise ConfigError(
            f"--bandit {name} is a path; Airflow only knows what lies in dags/bandits: put the YAML there, "
            f"and give its name: --bandit {Path(name).stem}"
        )
    return settings.bandit_path(name)


def _down(settings: Settings) -> int:
    from local_stack.stack import Stack

    for home in (settings.home, settings.home / "demo"):
        stack = Stack({}, settings.model_copy(update={"home": home}))
        if stack.running():
            stack.stop()
            console.print(f"stopped everything of {home}")
    return 0


def _clean(settings: Settings) -> int:
    from local_stack.stack import Stack

    for home in (settings.home, settings.home / "demo"):
        if Stack({}, settings.model_copy(update={"home": home})).running():
            raise BanditError(f"a stack of {home} runs. Stop it first: make down")
    if not settings.home.exists():
        return 0
    foreign = {entry.name for entry in settings.home.iterdir()} & {".git", "Makefile", ".ssh", ".bashrc"}
    if foreign:
        raise BanditError(
            f"{settings.home} holds {foreign.pop()}, so it is more than state; set BANDIT_HOME to a folder of its own"
        )
    shutil.rmtree(settings.home)
    console.print(f"forgot {settings.home}")
    return 0


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # once is enough: a second must not interrupt the stopping
    raise KeyboardInterrupt


if __name__ == "__main__":
    # Both end it with every process stopped. A shell that starts it in the background has SIGINT ignored: undo that.
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, _terminated)
    try:
        sys.exit(run())
    except BanditError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted; every process that was started was stopped")
        sys.exit(130)
