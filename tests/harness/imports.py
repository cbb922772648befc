"""Asks what code imports, in one fresh interpreter for many questions: it forks for each, after what they share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAM = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
first, questions = json.loads(sys.stdin.read())
exec(first, {})
for name, code in questions.items():
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        before = set(sys.modules)
        exec(code, {"__name__": "asked"})
        print("LOADED " + json.dumps([name, sorted(set(sys.modules) - before)]), flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} failed")
"""


def loaded_by(questions: Mapping[str, str], repo: Path, *, first: str = "") -> dict[str, set[str]]:
    """Return the modules that each piece of code brings beyond what `first` has brought."""
    environment = {**os.environ, "PYTHONPATH": f"{repo}{os.pathsep}{repo / 'plugins'}"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([first, questions]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line.removeprefix("LOADED ")) for line in done.stdout.splitlines() if line[:7] == "LOADED "]
    return {name: set(modules) for name, modules in answers}


def brought(modules: set[str], unwanted: tuple[str, ...]) -> list[str]:
    """Return those of the modules that are, or lie below, one of the unwanted."""
    return sorted(module for module in modules if f"{module}.".startswith(tuple(f"{name}." for name in unwanted)))
