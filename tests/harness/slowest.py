"""Says at the end of a run where its time went: seconds for each folder and for the slowest files."""

from __future__ import annotations

from collections import defaultdict

import pytest

_seconds: dict[str, float] = defaultdict(float)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path = report.nodeid.partition("::")[0]
    _seconds[path] += report.duration
    _seconds["/".join(path.split("/")[:2]) + "/"] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Only where durations are asked for, as `make test-all` does."""
    if not config.option.durations or hasattr(config, "workerinput"):
        return
    terminalreporter.section("seconds by folder, and the slowest files")
    ordered = sorted(_seconds.items(), key=lambda item: -item[1])
    folders = [pair for pair in ordered if pair[0].endswith("/")]
    files = [pair for pair in ordered if not pair[0].endswith("/")]
    for path, seconds in (*folders, *files[:15]):
        terminalreporter.write_line(f"{seconds:8.1f}  {path}")
