"""The message bus against the version before, in turns on one machine: CPU of a publish, requests/s, p99, memory.

    git worktree add ../before <commit>
    python benchmarks/bench_bus.py ../before [--rounds 5] [--seconds 3] [--json report.json]

Both versions serve the same policy to the same load; each turn asks one and then the other. Medians of the turns, and
the median ratio of a turn's two. Without a version before, only this one is measured. At last this one is started as
after a restart of the machine, with 770 MB on its bus, none of it in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from bench_server import _fsync_ms, _measure, _memory_mib, _server  # noqa: E402

PUBLISHED = (1, 16, 256)
ASKED = (
    ("durable", 1, 16),
    ("durable", 256, 1),
    ("durable", 256, 16),
    ("best_effort", 256, 1),
    ("best_effort", 256, 16),
)
"""Durability, instances a request, connections."""

# Publishes messages like the server's, so many times for each line it is sent; prints what that took: CPU and wall, µs.
PUBLISH = """
import json, random, sys, tempfile, time
from pathlib import Path
batch, times, where = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
from rl_core.backends.contracts.bus import Message
try:
    from rl_core.backends.local.bus.bus import LocalBus as Bus
    shares = True
except ImportError:  # two copies, one of them in SQLite
    from rl_core.backends.local.message_bus import SqliteBus as Bus
    shares = False
row = {"policy_version": "movielens-v1-0001", "observation_version": "movielens-first-k20", "epsilon": 0.05,
       "action_set_version": "movielens-first-20", "seed_stream": "blake2b(salt, event_id)", "served": True,
       "rollout_stage": None, "schema_version": 1, "policy_info": None, "source": "client",
       "decided_at": "2026-01-01T00:00:00.000000+00:00"}
own = {"action_id": "movie-3", "propensity": 0.9525, "observation": [random.random() for _ in range(20)]}
shared, own = json.dumps(row)[:-1].encode() + b", ", json.dumps(own)[1:].encode()
def message(n):
    key = f"01990000-0000-7000-8000-{n:012x}"
    return Message("decisions", key, own, shared) if shares else Message("decisions", key, shared + own)
with tempfile.TemporaryDirectory(dir=where) as folder:
    bus = Bus(Path(folder) / "bus" if shares else Path(folder) / "bus" / "bus.sqlite")
    begin = 0
    for line in sys.stdin:
        made = [[message(begin + n * batch + m) for m in range(batch)] for n in range(times)]
        begin += times * batch
        taken, cpu = [], time.process_time()
        for messages in made:
            at = time.perf_counter()
            bus.publish(messages)
            taken.append(1e6 * (time.perf_counter() - at))
        print(json.dumps([1e6 * (time.process_time() - cpu) / times, taken]), flush=True)
    bus.close()
"""

BANDITS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from bench_server import _bandit
for durability in ("durable", "best_effort"):
    _bandit(Path(sys.argv[1]), durability)
"""

# Opens a bus of another boot, publishes once, and prints what each took and the memory: s, s, CPU s, MiB.
START = """
import json, sys, time
from pathlib import Path
from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.clock import SteadyClock
cpu, began = time.process_time(), time.perf_counter()
bus = LocalBus(Path(sys.argv[1]), clock=SteadyClock(boot=lambda: "another boot"))
opened = time.perf_counter()
bus.publish([Message("decisions", "another decision", b"")])
took, cpu = time.perf_counter() - opened, time.process_time() - cpu
memory = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
print(json.dumps([opened - began, took, cpu, memory]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="?", help="a worktree of the version before")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each measurement")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    trees = [*([args.before.resolve()] if args.before else []), REPO]
    rows: list[dict[str, Any]] = []
    print(f"{'what':44} {'before':>10} {'now':>10} {'now/before':>10}", flush=True)
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as name:
        folder = Path(name)
        for batch in PUBLISHED:
            rows += _told(f"publish of {batch}", _publish(trees, folder, batch, args.seconds * args.rounds))
        for tree in trees:  # each version has its own YAML and its own form of a policy
            (folder / tree.name).mkdir()
            command = [sys.executable, "-c", BANDITS, str(folder / tree.name), str(tree / "benchmarks")]
            subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, check=True)
        for durability, instances, connections in ASKED:
            what = f"{durability}, {instances} x {connections}"
            taken = [
                [_ask(tree, folder, durability, instances, connections, args.seconds) for tree in trees]
                for _ in range(args.rounds)
            ]
            rows += _told(what, taken)
        starts = _starts(folder / "large", args.rounds)
        fsync_ms = _fsync_ms(folder)
    print(f"an fsync of 4 KiB takes {fsync_ms:.2f} ms; load {os.getloadavg()[0]:.1f}")
    if args.json:
        args.json.write_text(json.dumps({"fsync_ms": fsync_ms, "rows": rows, "starts": starts}, indent=1))


def _publish(trees: list[Path], folder: Path, batch: int, seconds: float) -> list[list[dict[str, float]]]:
    """In short turns of programs that are all up, so that a busy moment of the machine meets every version."""
    times = max(10, min(50, 800 // batch))
    with ExitStack() as stack:
        programs = []
        for tree in trees:
            command = [sys.executable, "-c", PUBLISH, str(batch), str(times), str(folder)]
            environment = {**os.environ, "PYTHONPATH": str(tree)}
            popen = subprocess.Popen(
                command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            programs.append(stack.enter_context(popen))
        turns: list[list[dict[str, float]]] = []
        began = time.monotonic()
        while time.monotonic() - began < seconds * len(trees):
            turn = []
            for program in programs:
                assert program.stdin is not None
                assert program.stdout is not None
                program.stdin.write("\n")
                program.stdin.flush()
                cpu, taken = json.loads(program.stdout.readline())
                turn.append({"cpu_us": cpu, "median_us": median(taken)})
            turns.append(turn)
        return turns[1:]  # the first one warms up


def _starts(folder: Path, rounds: int) -> list[list[float]]:
    """Seconds to open and to publish first, CPU seconds, and MiB, of a bus of 770 MB that no page cache holds."""
    from rl_core.backends.contracts.bus import Message
    from rl_core.backends.local.bus.bus import LocalBus

    bus, shared, own, keys = LocalBus(folder), bytes(400), bytes(354), 0
    while keys % 65_536 or sum(file.stat().st_size for file in folder.glob("*.log")) < 770e6:
        bus.publish([Message("decisions", str(uuid.uuid4()), own, shared) for _ in range(256)])
        keys += 256
    bus.close()
    found = []
    for _ in range(rounds):
        for file in folder.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        command = [sys.executable, "-c", START, str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        found.append(json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout))
    figures = (f"{median(column):.2f}" for column in zip(*found, strict=True))
    print(f"a start with 770 MB, {keys} keys: open %s s, first publish %s s, CPU %s s, %s MiB" % tuple(figures))
    return found


def _ask(tree: Path, folder: Path, durability: str, instances: int, connections: int, seconds: float) -> dict[str, Any]:
    """A server of its own for each: its memory is what this load makes of it."""
    from rl_core.config import Bandit

    bandit = Bandit.from_yaml(folder / REPO.name / durability / "movielens.yaml")
    with _server(folder / tree.name, bandit, tree) as (port, pid):
        before_s = _cpu_s(pid)
        row = _measure(folder, port, bandit.problem.observation_dim, instances, connections, seconds)
        figures = {name: row[name] for name in ("requests_per_s", "p50_ms", "p99_ms")}
        answered = row["requests_per_s"] * (seconds + 0.5)  # half a second to warm up
        cpu_ms = 1e3 * (_cpu_s(pid) - before_s) / answered
        return {**figures, "memory_mib": _memory_mib(pid), "cpu_ms_per_request": cpu_ms}


def _cpu_s(pid: int) -> float:
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def _told(what: str, taken: list[list[dict[str, float]]]) -> list[dict[str, Any]]:
    rows = []
    for figure in taken[0][0]:
        now, before = [turn[-1][figure] for turn in taken], [turn[0][figure] for turn in taken]
        ratio = median(one / other for one, other in zip(now, before, strict=True))
        rows.append({"what": what, "figure": figure, "before": before, "now": now, "ratio": ratio})
        print(f"{what + ': ' + figure:44} {median(before):10.1f} {median(now):10.1f} {ratio:10.2f}", flush=True)
    return rows


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"took {time.monotonic() - began:.0f} s")
