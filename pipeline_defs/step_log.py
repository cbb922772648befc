"""Turns what kfp.local logs and prints into `steps.json` and a log that a person can read."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from rl_core.files import write_atomically

_COLOUR = re.compile(r"\x1b\[\d+m")
_STARTED = re.compile(r"Executing task '(.+)'")
_CACHED = re.compile(r"Task (\S+) cache hit")
_FINISHED = re.compile(r"Task '(.+)' finished with status (\w+)")


class StepLog(logging.Filter):
    """Watches the root logger, where kfp.local 2.17 says what it does; only warnings pass through unread.

    `steps.json` lists the steps begun: `[{"step", "state": RUNNING|SUCCEEDED|SKIPPED|FAILED, "seconds"}]`. SKIPPED
    means that the outputs came from the cache. `succeeded` is called with each step that ran and succeeded.
    """

    def __init__(
        self, path: Path, say: Callable[[str], None], output: StepOutput, succeeded: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._path, self._say, self._output, self._succeeded = path, say, output, succeeded
        self._began = 0.0
        self.steps: list[dict[str, str | float]] = []
        self._write()

    def filter(self, record: logging.LogRecord) -> bool:
        message = _COLOUR.sub("", record.getMessage())
        if match := _STARTED.match(message):
            self._begin(match[1], "RUNNING", "started")
        elif match := _CACHED.match(message):
            self._begin(match[1], "SKIPPED", "cached")
        elif match := _FINISHED.match(message):
            self.end(succeeded=match[2] == "SUCCESS")
        else:
            return record.levelno >= logging.WARNING
        return False

    def end(self, *, succeeded: bool) -> None:
        """Close the running step, if there is one."""
        if self.steps and self.steps[-1]["state"] == "RUNNING":
            seconds = round(time.monotonic() - self._began, 3)
            self.steps[-1].update(state="SUCCEEDED" if succeeded else "FAILED", seconds=seconds)
            self._write()
            step = str(self.steps[-1]["step"])
            self._say(f"{step}: {'done' if succeeded else 'FAILED'} after {seconds:.1f} s")
            if succeeded:
                self._succeeded(step)

    def failure(self) -> str | None:
        """Return `step: what it died of` of a failed step, if one failed."""
        failed = [step["step"] for step in self.steps if step["state"] == "FAILED"]
        return f"{failed[-1]}: {self._output.error()}" if failed else None

    def _begin(self, step: str, state: str, said: str) -> None:
        self._began = time.monotonic()
        self._output.begin(step)
        self.steps.append({"step": step, "state": state, "seconds": 0.0})
        self._write()
        self._say(f"{step}: {said}")

    def _write(self) -> None:
        write_atomically(self._path, json.dumps(self.steps).encode())


class StepOutput(io.TextIOBase):
    """Stands in for stdout while kfp.local copies what a step prints; drops the chatter of kfp's executor."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.begin("")

    def begin(self, step: str) -> None:
        self._step, self._partial, self._in_input = step, "", False
        self._lines: list[str] = []

    def write(self, text: str) -> int:
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._line(_COLOUR.sub("", line).removeprefix("    ").rstrip())
        return len(text)

    def _line(self, line: str) -> None:
        if line.startswith("[KFP Executor "):
            self._in_input = line.endswith("Got executor_input:")
        elif self._in_input:
            self._in_input = line != "}"
        elif line.strip("- "):
            self._lines.append(line)
            self._say(f"  {self._step} | {line}")

    def error(self) -> str:
        """Return the exception's own line: the first unindented one after the last traceback's head, else the last."""
        lines = self._lines
        heads = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
        after = lines[heads[-1] + 1 :] if heads else []
        raised = next((line for line in after if not line.startswith(" ")), None)
        if raised is None:
            return lines[-1] if lines else "ended without a word (killed?)"
        return re.sub(r"^(?:\w+\.)+(?=\w+:? ?)", "", raised)
