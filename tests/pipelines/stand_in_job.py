"""Stands in for the process of a local run, `pipeline_defs/run_local.py`, where locks and signals are the point.

Like the real one it detaches, holds the lock, tells its state and its steps, and runs a process for each step, which
behaves as `$BANDIT_HOME/behaviour.json` says. It starts in a twentieth of the time: nothing compiles, caches or trains.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

BEHAVIOUR = {
    "fail": "echo 'StoreError: seq 5 is missing (gap); run the joiner first'; exit 1",
    "hang": "sleep 300; true",
    "hang deaf": "trap '' TERM; while true; do sleep 0.1; done",
    "slow": "sleep 0.5; true",
}


def write(path: Path, content: object) -> None:
    path.with_suffix(".new").write_text(json.dumps(content))
    path.with_suffix(".new").replace(path)


def tell(folder: Path, state: str, message: str = "") -> None:
    write(folder / "state.json", {"state": state, "message": message, "outputs": {}, "pid": os.getpid()})


def run(folder: Path) -> None:
    home = Path(os.environ["BANDIT_HOME"])
    behaviour = json.loads((home / "behaviour.json").read_text()) if (home / "behaviour.json").exists() else {}
    steps = []
    for stage in ("ingester", "trainer", "evaluator", "deployer", "exporter"):
        if (folder / "cancel").exists():
            return tell(folder, "CANCELLED", "cancelled")
        steps.append({"step": stage, "state": "RUNNING"})
        write(folder / "steps.json", steps)
        with (home / "calls").open("a") as calls:
            calls.write(f"{stage}\n")
        done = subprocess.run(
            ["sh", "-c", BEHAVIOUR.get(behaviour.get(stage, ""), "true")], capture_output=True, text=True
        )
        cancelled = bool(done.returncode) and (folder / "cancel").exists()
        steps[-1]["state"] = "CANCELLED" if cancelled else "FAILED" if done.returncode else "SUCCEEDED"
        write(folder / "steps.json", steps)
        if done.returncode:
            message = "cancelled" if cancelled else f"{stage}: {done.stdout.strip()}"
            return tell(folder, "CANCELLED" if cancelled else "FAILED", message)
    return tell(folder, "SUCCEEDED")


def main() -> None:
    folder, lock = Path(sys.argv[1]), int(sys.argv[3])
    if os.fork():
        os._exit(0)
    os.setsid()
    os.set_inheritable(lock, False)
    if (folder / "cancel").exists():
        tell(folder, "CANCELLED", "cancelled before it started")
    else:
        tell(folder, "RUNNING")
        run(folder)


if __name__ == "__main__":
    main()
