"""The prediction server over HTTP: requests/s, latency and memory, durable and best effort, beside the baselines.

    python benchmarks/bench_server.py [--seconds 5] [--json report.json]
    python benchmarks/bench_server.py --rounds 8      what durability costs: both servers up, in turn, 16 connections

Server and load generator share the machine, as in the baselines. `fsync` is what the disk gives at that moment: a
durable answer can't be faster than one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from rl_core.bandit.linucb import accumulate  # noqa: E402
from rl_core.config import Bandit  # noqa: E402
from rl_core.policy.artefact import write_artefact  # noqa: E402

BASELINES = {  # requests/s by (instances, connections): FastAPI without a log; a raw ASGI app with SQLite behind it
    "best_effort": {(1, 1): 1967, (1, 16): 2864, (256, 1): 405},
    "durable": {(1, 16): 3698, (256, 1): 247},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=0, help="compare durable with best effort, in so many turns each")
    parser.add_argument("--rate", type=float, default=0, help="with --rounds: requests a second (default: all it can)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    if args.rounds:
        _compare(args.rounds, args.seconds, args.rate, args.json)
        return
    rows = []
    print("durability   instances  connections  requests/s  baseline   p50 ms   p99 ms  memory MiB  fsync ms")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for durability in ("durable", "best_effort"):
            bandit = _bandit(folder, durability)
            with _server(folder, bandit) as (port, pid):
                for instances, connections in ((1, 1), (1, 16), (256, 1)):
                    row = _measure(folder, port, bandit.problem.observation_dim, instances, connections, args.seconds)
                    baseline = BASELINES[durability].get((instances, connections))
                    row = {"durability": durability, **row, "baseline": baseline, "memory_mib": _memory_mib(pid)}
                    row["fsync_ms"] = _fsync_ms(folder)
                    rows.append(row)
                    print(_line(row), flush=True)
    if args.json:
        args.json.write_text(
            json.dumps({"machine": platform.platform(), "cores": os.cpu_count(), "rows": rows}, indent=1)
        )


def _compare(rounds: int, seconds: float, rate: float, report: Path | None) -> None:
    """Both servers are up all the time and asked in turn, so that a busy moment of the machine meets both."""
    taken: dict[str, list[dict[str, Any]]] = {"durable": [], "best_effort": []}
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        folder = Path(name)
        bandits = {durability: _bandit(folder, durability) for durability in taken}
        ports = {durability: servers.enter_context(_server(folder, bandits[durability]))[0] for durability in taken}
        print("round durability   requests/s   p50 ms   p99 ms")
        for number in range(rounds):
            for durability in sorted(taken, reverse=bool(number % 2)):
                dim = bandits[durability].problem.observation_dim
                row = _measure(folder, ports[durability], dim, 1, 16, seconds, rate)
                taken[durability].append(row)
                figures = f"{row['requests_per_s']:10.0f} {row['p50_ms']:8.2f} {row['p99_ms']:8.2f}"
                print(f"{number:5} {durability:12} {figures}", flush=True)
        fsync_ms = _fsync_ms(folder)
    costs = {}
    for figure in ("p50_ms", "p99_ms"):
        pairs = zip(*([row[figure] for row in taken[durability]] for durability in taken), strict=True)
        differences = [durable - best_effort for durable, best_effort in pairs]
        low, middle, high = (float(at) for at in np.quantile(differences, (0.25, 0.5, 0.75)))
        costs[figure] = {"median": middle, "quartiles": [low, high], "differences": differences}
        print(f"durable - best effort, {figure}: {middle:+.2f} (quartiles {low:+.2f} to {high:+.2f}) of {rounds} turns")
    print(f"an fsync of 4 KiB takes {fsync_ms:.2f} ms")
    if report:
        report.write_text(json.dumps({"fsync_ms": fsync_ms, "costs": costs, "rounds": taken}, indent=1))


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['durability']:12} {row['instances']:9} {row['connections']:12} {row['requests_per_s']:11.0f} "
        f"{row['baseline'] or '':>9} {row['p50_ms']:8.2f} {row['p99_ms']:8.2f} "
        f"{row['memory_mib']:11.0f} {row['fsync_ms']:9.2f}"
    )


def _bandit(folder: Path, durability: str) -> Bandit:
    """The shipped bandit with this durability, and an artefact for it to serve."""
    content = yaml.safe_load((REPO / "dags" / "bandits" / "movielens.yaml").read_text())
    content["serving"]["durability"] = durability
    content["prefix"] = durability.replace("_", "-")
    (folder / durability).mkdir()
    path = folder / durability / "movielens.yaml"
    path.write_text(yaml.safe_dump(content))
    bandit = Bandit.from_yaml(path)
    rng = np.random.default_rng(1)
    problem = bandit.problem
    observations = rng.standard_normal((5000, problem.observation_dim)).astype(np.float32)
    actions = rng.integers(problem.num_actions, size=5000)
    statistics = accumulate(observations, actions, rng.standard_normal(5000), problem.num_actions)
    write_artefact(folder / durability / "policy", problem, bandit.agent, statistics)
    return bandit


@contextmanager
def _server(folder: Path, bandit: Bandit, tree: Path = REPO) -> Iterator[tuple[int, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    durability = bandit.serving.durability
    served = {"BANDIT_HOME": str(folder / f"home of {tree.name}"), "PYTHONPATH": str(tree)}
    served["AIP_STORAGE_URI"] = str(folder / durability / "policy")
    command = [
        sys.executable,
        "-m",
        "rl_core",
        "serve",
        str(folder / durability / "movielens.yaml"),
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, cwd=tree, env={**os.environ, **served}, stdout=subprocess.DEVNULL)
    try:
        started = time.monotonic()
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() - started > 30:
                raise SystemExit("the server did not start")
            time.sleep(0.02)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _measure(
    folder: Path, port: int, dim: int, instances: int, connections: int, seconds: float, rate: float = 0
) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    observations = rng.standard_normal((instances, dim)).astype(np.float32).astype(float).tolist()
    body = folder / "body.json"
    body.write_text(json.dumps({"instances": [{"observation": row} for row in observations]}))
    for warm in (True, False):
        command = [sys.executable, str(REPO / "benchmarks" / "load.py"), str(port), str(body)]
        command += ["--connections", str(connections), "--seconds", str(0.5 if warm else seconds), "--rate", str(rate)]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"instances": instances, "connections": connections, **json.loads(printed)}


def _memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _fsync_ms(folder: Path) -> float:
    """Median of appending 4 KiB and syncing it."""
    taken = []
    with (folder / "fsync").open("ab", buffering=0) as file:
        for _ in range(50):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return 1e3 * float(np.median(taken))


if __name__ == "__main__":
    main()
