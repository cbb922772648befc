"""A long log in the local store: 10,000,000 interactions in 2,500 appends, read while a writer goes on.

`python -m benchmarks.bench_long_log [--rows N] [--appends N] [--folder PATH]`. A folder that holds a log already is
only measured. Takes a quarter of an hour and 7 GB on disk, removed files included.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.bench_storage import BANDIT, table, timed
from rl_core.backends.local.joining.joiner import StoreJoiner
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit
from rl_core.schema import DECISION_SCHEMA, INTERACTION_SCHEMA, REWARD_SCHEMA
from rl_core.stages.ingester import COLUMNS

PRODUCER = "bus-1"
WINDOW = 250_000
SAMPLES = 200


def appended(store: DeltaEventStore, start: int, count: int) -> dict[str, float]:
    """Seconds of one append to each table."""
    now = datetime.now(UTC)
    decisions, rewards = (table(schema, start, count, PRODUCER) for schema in (DECISION_SCHEMA, REWARD_SCHEMA))
    stamp = pa.repeat(pa.scalar(now, pa.timestamp("us", tz="UTC")), count)
    at = rewards.column_names.index
    rewards = rewards.set_column(at("observed_at"), REWARD_SCHEMA.field("observed_at"), stamp)
    rewards = rewards.set_column(at("received_at"), REWARD_SCHEMA.field("received_at"), stamp)
    joined = decisions.add_column(0, "seq", pa.array(np.arange(start + 1, start + count + 1)))
    for name, values in (
        ("reward", rewards["reward"]),
        ("reward_observed_at", stamp),
        ("reward_received_at", stamp),
        ("closed_by", pa.repeat(pa.scalar("reward"), count)),
        ("closed_at", stamp),
    ):
        joined = joined.append_column(name, values)
    joined = joined.cast(INTERACTION_SCHEMA)
    return {
        "decisions": timed(lambda: store.append("decisions", decisions)),
        "rewards": timed(lambda: store.append("rewards", rewards)),
        "interactions": timed(lambda: store.append_interactions(joined)),
    }


def build(folder: Path, rows: int, appends: int) -> None:
    store, each = DeltaEventStore(folder / "store"), rows // appends
    walls: dict[str, list[float]] = {"decisions": [], "rewards": [], "interactions": []}
    start = time.perf_counter()
    for n in range(appends):
        for name, wall in appended(store, n * each, each).items():
            walls[name].append(wall)
    print(f"build   {appends:,} appends of {each:,} to each of three tables: {time.perf_counter() - start:.0f} s")
    for name, all_ in walls.items():
        for when, some in (("first", all_[: appends // 10]), ("last", all_[-appends // 10 :])):
            p50, p99 = np.percentile(some, [50, 99]) * 1e3
            print(f"append  {name:13} {when} tenth: p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {max(some):.2f} s")


def write_on(folder: Path) -> None:
    """A writer that appends 500 rows to each table until it is stopped."""
    store = DeltaEventStore(folder / "store")
    while True:
        appended(store, store.head(), 500)


def read_on(folder: Path, seconds: float) -> int:
    """Reads the newest and an old window over and over; returns how often. Each has to be whole."""
    store, until, count = DeltaEventStore(folder / "store"), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        head = store.head()
        for low in (head - 20_000, count * 9973 % (head - 20_000)):
            seqs = store.interactions((low, low + 20_000), ["seq", "reward"])["seq"].to_numpy()
            assert (seqs == np.arange(low + 1, low + 20_001)).all()
        count += 2
    return count


def in_new_process(folder: Path, what: str) -> str:
    command = [sys.executable, "-m", "benchmarks.bench_long_log", "--folder", str(folder), "--measure", what]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def measure_join(folder: Path) -> None:
    bandit = Bandit.from_yaml(BANDIT)
    joiner = StoreJoiner(bandit, DeltaEventStore(folder / "store"))
    seconds = timed(lambda: joiner.run(None))
    print(f"{seconds:.2f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


def measure_head(folder: Path) -> None:
    print(f"{timed(lambda: DeltaEventStore(folder / 'store').head()) * 1e3:.0f} ms")


def measure(folder: Path) -> None:
    store = DeltaEventStore(folder / "store")
    head = store.head()
    for name in ("decisions", "rewards", "interactions"):
        place = folder / "store" / name
        log = sum(file.stat().st_size for file in (place / "_delta_log").iterdir())
        files = store._tables[name].files()
        size = sum(file.size for file in files)
        print(f"files   {name:13} {len(files)} files, {size / 2**20:,.0f} MiB; log {log / 2**20:.1f} MiB")
    rng = np.random.default_rng(3)
    windows = [(int(low), int(low) + WINDOW) for low in rng.integers(0, head - WINDOW, 5)]
    ratios = []
    for window in windows:
        rows = store.interactions(window, COLUMNS)
        one = folder / "one.parquet"
        parquet.write_table(store.interactions(window), one, row_group_size=65_536)
        pairs = [
            (
                timed(lambda: parquet.read_table(one, columns=list(COLUMNS))),  # noqa: B023
                timed(lambda: store.interactions(window, COLUMNS)),  # noqa: B023
            )
            for _ in range(7)
        ]
        alone, ours = (min(column) for column in zip(*pairs, strict=True))
        ratios.append((rows.num_rows / ours, alone / ours))
    speed, ratio = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"window  {WINDOW:,} rows, quiet: {speed / 1e6:.2f} M rows/s, {ratio:.2f} of one Parquet file's speed")
    print(f"join    restarted, without its checkpoint: {in_new_process(folder, 'join')}")
    print(f"join    restarted: {in_new_process(folder, 'join')}")
    print(f"open    head() in a new process: {in_new_process(folder, 'head')}")
    measure_beside_a_writer(folder, store)


def measure_beside_a_writer(folder: Path, store: DeltaEventStore) -> None:
    command = [sys.executable, "-m", "benchmarks.bench_long_log", "--folder", str(folder), "--measure", "write"]
    head, one = store.head(), folder / "one.parquet"
    writer = subprocess.Popen(command)
    try:
        while store.head() == head:
            time.sleep(0.1)
        heads = [timed(store.head) for _ in range(SAMPLES)]
        window = (head - WINDOW, head)
        parquet.write_table(store.interactions(window), one, row_group_size=65_536)
        pairs = [
            (
                timed(lambda: store.interactions(window, COLUMNS)),
                timed(lambda: parquet.read_table(one, columns=list(COLUMNS))),
            )
            for _ in range(9)
        ]
        ours, alone = (min(column) for column in zip(*pairs, strict=True))
        ids = [f"01980000-0000-8000-8000-{n:012x}" for n in range(head - 1000, head)]
        closed = [timed(lambda: store.closed(ids)) for _ in range(20)]
        old = [timed(lambda: store.closed([ids[0], "01980000-0000-8000-8000-000000000007"])) for _ in range(20)]
        last = store.last_offset("rewards", PRODUCER)
        since = [timed(lambda: store.since("rewards", {PRODUCER: last})) for _ in range(20)]
        begun, before = time.monotonic(), store.head()
        windows = read_on(folder, 20)
        rate = (store.head() - before) / 500 / (time.monotonic() - begun)
        assert writer.poll() is None
    finally:
        writer.terminate()
        writer.wait()
    p50, p99 = np.percentile(heads, [50, 99]) * 1e3
    print(f"beside  a writer: window {WINDOW / ours / 1e6:.2f} M rows/s, {alone / ours:.2f} of one file's speed")
    print(f"beside  head() p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    for said, walls in (("closed(1,000 new ids)", closed), ("closed(an old id)", old), ("since()", since)):
        print(f"beside  {said} median {statistics.median(walls) * 1e3:.0f} ms")
    print(f"beside  {windows} windows of 20,000 read whole in 20 s while {rate:.1f} x 3 appends a second went on")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--appends", type=int, default=2_500)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", choices=("join", "head", "write"), help="only that, in this process")
    args = parser.parse_args()
    if args.measure:
        {"join": measure_join, "head": measure_head, "write": write_on}[args.measure](args.folder)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name)
        if not (folder / "store").exists():
            build(folder, args.rows, args.appends)
        measure(folder)


if __name__ == "__main__":
    main()
