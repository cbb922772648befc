"""Throughput of the local backend: publishes, appends, joins, `head()`. `python -m benchmarks.bench_storage [rows]`

`rows` (200,000) are logged and joined first; the later figures are taken with this history in the store.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa

from rl_core.backends.contracts.bus import Message
from rl_core.backends.contracts.store import EventStore
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit
from rl_core.joining.event_logger import EventLogger
from rl_core.schema import DECISION_SCHEMA, REWARD_SCHEMA

SECONDS = 2.0
PART = 100_000
BANDIT = Path(__file__).parents[1] / "dags" / "bandits" / "movielens.yaml"
NOW = datetime.now(UTC)
COMMON = {
    "decided_at": NOW.isoformat(timespec="microseconds"),
    "observed_at": NOW.isoformat(timespec="microseconds"),
    "policy_version": "movielens-v1-0001",
    "observation": np.random.default_rng(1).random(20, np.float32).tolist(),
    "observation_version": "movielens-first-k20",
    "action_id": "movie-3",
    "action_set_version": "movielens-first-20",
    "propensity": 0.9525,
    "epsilon": 0.05,
    "source": "client",
    "served": True,
    "schema_version": 1,
    "reward": 4.5,
}


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def messages(start: int, count: int) -> list[Message]:
    """A decision each."""
    ids = [f"01990000-0000-7000-8000-{n:012x}" for n in range(start, start + count)]
    return [Message("decisions", event_id, orjson.dumps({"event_id": event_id, **COMMON})) for event_id in ids]


def table(schema: pa.Schema, start: int, count: int, producer: str) -> pa.Table:
    """Rows as a job makes them: one value repeated, but for the observations and what names the row."""
    numbers = np.arange(start + 1, start + count + 1)
    own = {
        "event_id": pa.array([f"01980000-0000-8000-8000-{n:012x}" for n in numbers]),
        "offset": pa.array(numbers),
        "observation": pa.FixedSizeListArray.from_arrays(
            pa.array(np.random.default_rng(start).random(count * 20, np.float32)), 20
        ).cast(pa.list_(pa.float32())),
    }
    same = COMMON | dict.fromkeys(("decided_at", "observed_at", "received_at"), NOW) | {"producer": producer}
    columns = [own[f.name] if f.name in own else pa.repeat(pa.scalar(same.get(f.name), f.type), count) for f in schema]
    return pa.table(columns, schema=schema)


def bench_bus(folder: Path) -> None:
    for batch in (1, 16, 64, 256):
        bus = LocalBus(folder / f"bus-{batch}")
        prepared = messages(0, 60_000)
        done, start = 0, time.perf_counter()
        while (wall := time.perf_counter() - start) < SECONDS and done + batch <= len(prepared):
            bus.publish(prepared[done : done + batch])
            done += batch
        watermark = statistics.median(timed(bus.watermark) for _ in range(50))
        bus.close()
        print(
            f"bus     {batch:3d} a publish   {done / wall:9,.0f} messages/s  {done / batch / wall:6,.0f} commits/s",
            end="",
        )
        print(f"  watermark {watermark * 1e3:.2f} ms")


def bench_job(store: EventStore, bandit: Bandit, rows: int) -> None:
    appended = 0.0
    for start in range(0, rows, PART):
        count = min(PART, rows - start)
        decisions, rewards = (table(schema, start, count, "generator-1") for schema in (DECISION_SCHEMA, REWARD_SCHEMA))
        begun = time.perf_counter()
        store.append("decisions", decisions)
        store.append("rewards", rewards)
        appended += time.perf_counter() - begun
    joined = timed(lambda: store.joiner(bandit).run(None))
    assert store.head() == rows
    print(f"job     {rows:,} decisions and rewards: append {appended:.2f} s, join {joined:.2f} s")


def bench_logger(store: EventStore, bandit: Bandit, folder: Path, cycles: int = 40, count: int = 1000) -> None:
    bus = LocalBus(folder / "bus")
    logger = EventLogger(bandit, bus, store)
    first = timed(logger.run_once)
    head, walls = store.head(), []
    for cycle in range(cycles):
        made = messages(cycle * count, count)
        bus.publish([*made, *(Message("rewards", m.key, m.payload) for m in made)])
        walls.append(timed(logger.run_once))
    assert store.head() == head + cycles * count
    idle = statistics.median(timed(logger.run_once) for _ in range(20))
    print(
        f"logger  {count:,} decisions and rewards a cycle: median {statistics.median(walls):.3f} s, "
        f"longest {max(walls):.3f} s; nothing new {idle:.3f} s; first cycle {first:.3f} s"
    )
    bus.close()


def bench_reads(path: Path) -> None:
    store = DeltaEventStore(path)
    cold, head = timed(store.head), store.head()
    warm = statistics.median(timed(store.head) for _ in range(50))
    window = timed(lambda: store.interactions((head - 3000, head)))
    count = timed(lambda: store.query("SELECT count(*) FROM interactions"))
    print(f"reads   head() {cold * 1e3:.1f} ms cold, {warm * 1e3:.2f} ms warm; ", end="")
    print(f"window of 3,000 {window * 1e3:.0f} ms; count(*) in SQL {count * 1e3:.0f} ms")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    bandit = Bandit.from_yaml(BANDIT)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench_bus(folder)
        store = DeltaEventStore(folder / "store")
        bench_job(store, bandit, rows)
        bench_logger(store, bandit, folder)
        bench_reads(folder / "store")


if __name__ == "__main__":
    main()
