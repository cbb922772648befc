"""`banditloop`, or `python -m rl_core`: the long-running side by hand. `--help` on every command."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from rl_core import __version__
from rl_core.config import Settings
from rl_core.errors import BanditError, ConfigError

NEEDS = {
    "serve": ("fastapi_offline", "server"),
    "simulate": ("orjson", "server"),
    "bus": ("orjson", "server"),
    "log": ("deltalake", "job"),
    "forget": ("deltalake", "job"),
    "import": ("deltalake", "job"),
    "status": ("deltalake", "job"),
}
"""The module that each command misses first, and the extra of the wheel that brings it; `check`, `init`: none."""

_CAT = """Print what is on a bandit's message bus, as JSON lines: topic, offset, key, received_at, payload. Without a
payload is what was forgotten, or lost to damage. Server and event logger may run meanwhile."""

_IMPORT = """Bring a file of logged decisions and their rewards into the log: check it first, and say what is in it. The
same command again goes on where it was cut short, and adds nothing twice. docs/importing.md has examples."""
_FILE = """CSV with a header, Parquet, JSON lines, VW dsjson or arrays of Open Bandit Pipeline (.npz), by its ending;
with backend gcp a table, bq://project.dataset.table, too"""
_MAP = """fields are event_id, action, propensity, reward, observation (a column of lists, or several columns with
commas between) and eligible_actions; action to observation need no word where the column has the field's name"""


_CHECK = """Print a line for each thing that is wrong with a bandit's YAML, with file, place, rule and, for an unknown
key, the nearest valid one; then the exit status is 1. What contradicts each other is said once each value is right. Of
a YAML that is right it says "ok"."""

_INIT = """Write NAME.yaml, with a comment at each key. With --from it looks at a file of somebody's decisions: which
column is the action, what it earned, with which probability it was drawn, and of which kind the features are that are
left. It says what it found, what it left out and why, and the commands that follow. docs/your-own-bandit.md has an
example."""

_STATUS = """Print of each bandit its champion, what its server serves, whether its event logger is at work, how far the
log is and how the last training ended. The exit status is 0 if all that should answer does, else 1."""

ROLES = ("action", "reward", "propensity", "event_id")
"""What `init` looks for in a file."""


def positive(text: str) -> int:
    """Parse a positive integer, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(prog="banditloop", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.add_argument("bandit", nargs="?", help="a YAML, or a name in dags/bandits; default: BANDIT_DEFINITION")
        return sub

    check = commands.add_parser("check", help="say all that is wrong with bandits' YAMLs", description=_CHECK)
    check.add_argument("bandits", nargs="*", metavar="FILE", help="YAMLs, or names in dags/bandits; default: all there")
    begin = commands.add_parser("init", help="write a bandit's YAML, from a file of decisions", description=_INIT)
    begin.add_argument("name", metavar="NAME", help="of the bandit, and of its YAML")
    begin.add_argument("--from", dest="source", metavar="FILE", help=".csv, .parquet, .jsonl, .npz, or bq://…")
    begin.add_argument("--out", type=Path, metavar="FOLDER", help="default: dags/bandits where it is, else this one")
    for role in ROLES:
        option, what = f"--{role.replace('_', '-')}", role.replace("_", " ")
        begin.add_argument(option, metavar="COLUMN", help=f"which column is the {what}, if it is not found")
    status = commands.add_parser("status", help="say how bandits do: policy, server, logger, log", description=_STATUS)
    status.add_argument(
        "bandits", nargs="*", metavar="NAME", help="names in dags/bandits, or YAMLs; default: all there"
    )
    status.add_argument("--json", action="store_true", help="print a JSON list")
    serve = command("serve", "answer predictions and take rewards, until stopped")
    serve.add_argument("--port", type=int, help="default: BANDIT_SERVER_PORT, else serving.port of the bandit")
    command("log", "carry decisions and rewards from the bus into the event store and join them, until stopped")
    simulate = command("simulate", "send simulated users to the running server")
    simulate.add_argument("--decisions", type=positive, help="how many users arrive (default: simulate.decisions)")
    simulate.add_argument("--concurrency", type=positive, help="users at a time (default: simulate.concurrency)")
    simulate.add_argument("--seed", type=int, default=0, help="of the order in which users arrive (default 0)")
    simulate.add_argument("--round", type=int, default=0, help="the round of a drifting environment (default 0)")
    forget = command("forget", "take one person's data out of the log for good")
    forget.add_argument("--subject", action="append", default=[], help="whose: as sent with its decisions; repeatable")
    forget.add_argument("--event-id", action="append", default=[], help="an event by its id; repeatable")
    forget.add_argument("--dry-run", action="store_true", help="only say what there is")
    forget.add_argument("--datasets", action="store_true", help="remove the pipelines' cached datasets as well")
    load = commands.add_parser("import", help="bring a file of decisions and rewards into the log", description=_IMPORT)
    load.add_argument("file", help=_FILE)
    load.add_argument("--bandit", help="a YAML, or a name in dags/bandits; default: BANDIT_DEFINITION")
    load.add_argument("--map", nargs="+", action="extend", default=[], metavar="FIELD=COLUMN", help=_MAP)
    load.add_argument(
        "--format", choices=("csv", "parquet", "jsonl", "dsjson", "npz"), help="default: by the file's ending"
    )
    load.add_argument("--policy", default="imported", help="whose decisions: one of validation.other_policies")
    load.add_argument("--dry-run", action="store_true", help="only say what is in it")
    shown = commands.add_parser("bus", help="look at the message bus").add_subparsers(dest="of_bus", required=True)
    cat = shown.add_parser("cat", help="print what is on the message bus, as JSON lines", description=_CAT)
    cat.add_argument("bandit", nargs="?", help="a name in dags/bandits, or a YAML; default: BANDIT_DEFINITION")
    cat.add_argument("--topic", choices=("decisions", "rewards"), help="default: both, one after the other")
    cat.add_argument("--after", type=int, default=0, help="begin behind this offset (default 0)")
    cat.add_argument("--limit", type=positive, help="so many messages of each topic at most (default: all)")
    cat.add_argument("--follow", action="store_true", help="wait for more of the last topic, until Ctrl-C")
    return parser


def check_installed(command: str, backend: str) -> None:
    """Raise ConfigError where the extra of the wheel that the command needs is not installed."""
    needed = [NEEDS[command]] if command in NEEDS else []
    for module, extra in [*needed, *([("google.cloud.aiplatform", "gcp")] if backend == "gcp" else [])]:
        if not _importable(module):
            raise ConfigError(f"`{command}` needs {module}, which is not installed: pip install 'banditloop[{extra}]'")


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package around it
        return False


def run(argv: list[str] | None = None) -> int:
    """Run one command of the command line; return its exit status. Raises BanditError."""
    args = build_parser().parse_args(argv)
    settings = Settings.from_environment()
    if args.command == "check":
        from rl_core.checking import check

        return check(settings.bandit_paths(args.bandits))
    if args.command == "init":
        from rl_core.starting.init import init

        check_installed(args.command, "gcp" if str(args.source).startswith("bq:") else "local")
        return init(args.name, args.source, args.out, {role: getattr(args, role) for role in ROLES}, settings)
    if args.command == "status":
        check_installed(args.command, "local")
        from rl_core.monitoring import status

        return status.main(args.bandits, settings, args.json)
    bandit = settings.bandit(args.bandit)
    check_installed(args.command, bandit.backend)
    if args.command == "serve":
        from rl_core.serving import server

        return server.main(bandit, settings, settings.server_port_of(bandit) if args.port is None else args.port)
    if args.command == "log":
        # Arrow's own allocator keeps what each of some 70 threads once needed, so the logger grew by 10 MiB a minute.
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # read when Arrow is first imported
        from rl_core.joining import event_logger

        return event_logger.main(bandit, settings)
    if args.command == "bus":
        from rl_core.monitoring import show_bus

        return show_bus.show(bandit, settings, args.topic, args.after, args.limit, args.follow)
    if args.command == "import":
        from rl_core.importing import importer

        return importer.run(bandit, settings, args.file, args.map, args.format, args.policy, args.dry_run)
    if args.command == "forget":
        from rl_core.joining.forget import forget

        return forget(bandit, settings, args.subject, args.event_id, args.dry_run, args.datasets)
    from rl_core.simulation import simulator

    return simulator.main(
        bandit,
        settings,
        decisions=args.decisions or bandit.simulate.decisions,
        concurrency=args.concurrency or bandit.simulate.concurrency,
        seed=args.seed,
        round=args.round,
    )


def main() -> int:
    """Run the command that the arguments name; its exit status, 2 after an error that has been told."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    try:
        return run()
    except BanditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
