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
    commands.add_parser("example", help="play a news front page, from a CSV to the third retrain, without Airflow")
    up = commands.add_parser("up", help="start everything and leave it running")
    down = commands.add_parser("down", help="stop what up (or an interrupted demo) started")
    clean = commands.add_parser("clean", help="delete all state under BANDIT_HOME, unless something runs")
    for command in (demo, up, down, clean):
        command.add_argument("--bandit", default="movielens", help="a name in dags/bandits (default movielens)")
    return parser


def run(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    settings = Settings.from_environment()
    if args.command == "example":
        from local_stack import example

        return example.main(settings, console)
    if Path(args.bandit).suffix or Path(args.bandit).name != args.bandit:
        raise ConfigError(
            f"--bandit {args.bandit} is a path; Airflow only knows what lies in dags/bandits: put the YAML there, "
            f"and give its name: --bandit {Path(args.bandit).stem}"
        )
    yaml = settings.bandit_path(args.bandit)
    if args.command == "demo":
        from local_stack.demo import Demo

        Demo(yaml, settings, args.rounds, console).run()
        return 0
    return {"up": _up, "down": _down, "clean": _clean}[args.command](yaml, settings)


def _up(yaml: Path, settings: Settings) -> int:
    from local_stack.stack import Stack

    stack = Stack(yaml, settings)
    if stack.running():
        raise BanditError(f"a stack of {settings.home} runs already: {stack.airflow.url}. Stop it first: make down")
    try:
        stack.start(console.print)
    except BaseException:
        stack.stop()
        raise
    name = stack.bandit.name
    console.print(f"Airflow:  {stack.airflow.url}  (DAGs {name}_startup, {name}_retrain, …)")
    console.print(f"Server:   http://127.0.0.1:{settings.server_port_of(stack.bandit)}/docs")
    console.print(f"State:    {settings.home}")
    first = (
        f"trigger {name}_startup in Airflow, then " if stack.bandit.environment else "ask the server for decisions, "
    )
    console.print(f"Next:     {first}unpause {name}_retrain. Stop with: make down")
    return 0


def _down(yaml: Path, settings: Settings) -> int:
    from local_stack.stack import Stack

    for home in (settings.home, settings.home / "demo"):
        stack = Stack(yaml, settings.model_copy(update={"home": home}))
        if stack.running():
            stack.stop()
            console.print(f"stopped everything of {home}")
    return 0


def _clean(yaml: Path, settings: Settings) -> int:
    from local_stack.stack import Stack

    for home in (settings.home, settings.home / "demo"):
        if Stack(yaml, settings.model_copy(update={"home": home})).running():
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
        console.print("interrupted; every process was stopped")
        sys.exit(130)
