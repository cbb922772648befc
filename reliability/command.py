"""What the commands of this room share: how they are interrupted, and how they say what broke."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console


def interrupt_on_signals() -> None:
    """SIGTERM ends a play as Ctrl-C does, also where the shell started it with SIGINT ignored."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupt)


def conclude(console: Console, out: Path, problems: Sequence[str], evidence: Path, report: Mapping[str, Any]) -> int:
    """Name the report and each broken promise; returns the exit status.

    Args:
        evidence: where to look when something broke.
    """
    console.print(f"report: {out}", soft_wrap=True)
    for line in problems:
        console.print(f"broken: {line}", style="red", markup=False, soft_wrap=True)
    if problems:
        console.print(f"logs: {evidence}", soft_wrap=True)
    if "interrupted" in report["problems"]:
        return 130
    return 1 if problems else 0
