"""docs/retention.md: its commands are commands, its table names the tables that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from rl_core.__main__ import build_parser
from rl_core.backends.gcp.store.tables import KINDS
from rl_core.config import Retention

PAGE = (Path(__file__).parents[2] / "docs" / "retention.md").read_text()


def test_every_command_is_one() -> None:
    commands = re.findall(r"^    python -m rl_core (.+)$", PAGE, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        args = build_parser().parse_args(shlex.split(command))
        assert args.command == "forget"
        assert args.subject or args.event_id


def test_the_setting_is_one() -> None:
    (block,) = re.findall(r"^    (retention:\n(?:      .+\n)+)", PAGE, re.MULTILINE)
    assert Retention(**yaml.safe_load(block)["retention"]).raw_log_days == 30


def test_the_tables_that_expire_are_those_of_the_page() -> None:
    row = next(line for line in PAGE.splitlines() if "`retention.raw_log_days`, or for ever" in line)
    assert set(re.findall(r"`(\w+)`", row.split("|")[1])) == {name for name, kind in KINDS.items() if kind.raw}
