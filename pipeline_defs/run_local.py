"""Executes the pipeline job that lies in a folder, with kfp.local: the process of a local run.

    python -m pipeline_defs.run_local FOLDER --lock DESCRIPTOR

The folder holds `job.json` and the filled-in `spec.yaml`; this process adds `state.json`, `steps.json` and `log.txt`
(its output). It inherits an exclusive lock on `FOLDER/lock` and has it while it lives: nobody needs to trust a process
id. `plugins/bandit_ops/runners/local.py` starts it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kfp import components, local
from kfp.local import cache as kfp_cache

from pipeline_defs.sealed_cache import SealedCache
from pipeline_defs.step_log import StepLog, StepOutput
from rl_core.files import write_atomically
from rl_core.monitoring import experiment_log


def detach(lock: int) -> None:
    """Leave the submitter's session, and keep the inherited lock from the steps: it shows that this process lives."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.set_inheritable(lock, False)


def say(text: str) -> None:
    """Write a line with the time to the log."""
    stamp = datetime.now().astimezone().strftime("%H:%M:%S")
    os.write(1, f"{stamp} {text}\n".encode())  # not print: kfp.local replaces it while a step runs


def write_state(folder: Path, state: str, message: str = "", outputs: dict[str, Any] | None = None) -> None:
    """Replace `state.json`."""
    content = {"state": state, "message": message, "outputs": outputs or {}, "pid": os.getpid()}
    write_atomically(folder / "state.json", json.dumps({**content, "at": datetime.now(UTC).isoformat()}).encode())


def noted(write: Callable[[], None]) -> None:
    """Write to the run's experiment log; a run doesn't fail for it."""
    try:
        write()
    except (ImportError, OSError) as error:
        say(f"not in the experiment log: {error}")


def prepare_steps(folder: Path) -> None:
    """Let `python3` in a step's shell script be this interpreter, and keep its temporary files in the folder.

    kfp.local replaces the text python3 by `sys.executable` in every argument, unquoted: paths would break.
    """
    (folder / "bin").mkdir(exist_ok=True)
    python3 = folder / "bin" / "python3"
    python3.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python3.chmod(0o755)
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["TMPDIR"] = str(folder / "tmp")
    sys.executable = "python3"


def artifacts(job: dict[str, Any]) -> Path:
    """Name the folder of the steps' outputs, which outlives the job: later runs reuse them."""
    return Path(job["cache_dir"], "artifacts", job["job_id"])


def execute(folder: Path, job: dict[str, Any], log: StepLog, output: StepOutput) -> dict[str, Any]:
    """Run the pipeline and return its outputs."""
    prepare_steps(folder)
    kfp_cache.LocalCache = SealedCache  # kfp has no setting for it
    cache = Path(job["cache_dir"])
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(artifacts(job)),
        workspace_root=str(folder / "tmp" / "workspace"),
        enable_caching=job["caching"],
        cache_root=str(cache / "entries"),
    )
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger().addFilter(log)
    pipeline = components.load_component_from_file(str(folder / "spec.yaml"))
    with contextlib.redirect_stdout(output):
        return dict(pipeline(**job["parameters"]).outputs)


def outputs_of(step: str, spec: dict[str, Any], artifacts: Path) -> dict[str, Any]:
    """Read the pipeline's outputs where all are those of this step, which has just ended; else there are none yet."""
    declared = spec["root"]["dag"].get("outputs", {}).get("parameters", {})
    sources = {name: output["valueFromParameter"] for name, output in declared.items()}
    if {source["producerSubtask"] for source in sources.values()} != {step}:
        return {}
    written = max(artifacts.glob(f"*/{step}/executor_output.json"), key=os.path.getmtime)
    values = json.loads(written.read_bytes())["parameterValues"]
    return {name: values[source["outputParameterKey"]] for name, source in sources.items()}


def run(folder: Path) -> int:
    """Execute the job and write its verdict; 0 where it succeeded."""
    began = time.monotonic()
    if (folder / "cancel").exists():
        write_state(folder, "CANCELLED", "cancelled before it started")
        return 1
    write_state(folder, "RUNNING")
    job = json.loads((folder / "job.json").read_text())
    say(f"{job['pipeline_name']}: {job['job_id']}")
    experiment = folder.parent.parent / experiment_log.EXPERIMENTS / folder.name
    parameters = {name: value for name, value in job["parameters"].items() if name != "bandit"}
    noted(lambda: experiment_log.begin(experiment, job["pipeline_name"], parameters))
    output = StepOutput(say)
    spec = yaml.safe_load((folder / "spec.yaml").read_bytes())
    outputs: dict[str, Any] = {}

    def told(step: str) -> None:
        if found := outputs_of(step, spec, artifacts(job)):
            outputs.update(found)
            write_state(folder, "RUNNING", outputs=outputs)

    log = StepLog(folder / "steps.json", say, output, told)
    state, message = "SUCCEEDED", ""
    try:
        outputs = execute(folder, job, log, output)
    except Exception as error:
        log.end(succeeded=False)
        state, message = "FAILED", log.failure() or f"{type(error).__name__}: {' '.join(str(error).split())}"
        if log.failure() is None:
            traceback.print_exc()
    if state == "FAILED" and (folder / "cancel").exists():
        state, message = "CANCELLED", "cancelled"  # whoever cancels may reach the step before this process
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    cached = sum(step["state"] == "SKIPPED" for step in log.steps)
    say(f"{state} in {time.monotonic() - began:.1f} s: {len(log.steps)} steps, {cached} cached. {message or outputs}")
    noted(lambda: experiment_log.end(experiment, succeeded=state == "SUCCEEDED"))
    write_state(folder, state, message, outputs)
    return 0 if state == "SUCCEEDED" else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_defs.run_local", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=int, required=True, help="descriptor of the held lock; the process detaches")
    arguments = parser.parse_args()
    detach(arguments.lock)
    return run(arguments.folder)


if __name__ == "__main__":
    sys.exit(main())
