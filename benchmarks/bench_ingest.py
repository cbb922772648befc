"""TFRecords of trajectories: rows written, read back, and ingested from a local event store. d = K = 20."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from timing import Row, print_table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.dataset import trajectories
from rl_core.dataset.trajectories import Dataset, Part, Rows
from rl_core.schema import INTERACTION_SCHEMA
from rl_core.stages import ingester

ROOT = Path(__file__).resolve().parent.parent


def random_rows(count: int, dim: int, actions: int) -> Rows:
    rng = np.random.default_rng(0)
    return Rows(
        np.arange(1, count + 1),
        rng.standard_normal((count, dim)).astype(np.float32),
        rng.integers(0, actions, count).astype(np.int32),
        rng.standard_normal(count).astype(np.float32),
        np.full(count, 1 / actions),
        np.ones((count, actions), np.bool_),
    )


def fill_store(bandit: Bandit, settings: Settings, rows: Rows) -> None:
    """Append the rows as interactions that a client was served."""
    n, dim = len(rows), rows.observation.shape[1]
    columns = {field.name: pa.nulls(n, field.type) for field in INTERACTION_SCHEMA}
    now = pa.repeat(pa.scalar(1_700_000_000_000_000).cast(pa.timestamp("us", tz="UTC")), n)
    columns |= dict.fromkeys(("decided_at", "received_at", "closed_at"), now)
    columns |= dict.fromkeys(("policy_version", "producer", "source", "closed_by"), pa.repeat("uniform", n))
    columns |= {
        "seq": pa.array(rows.seq),
        "offset": pa.array(rows.seq),
        "event_id": pa.array([f"0192f5a0-0000-7000-8000-{i:012d}" for i in range(n)]),
        "observation": pa.ListArray.from_arrays(
            np.arange(0, n * dim + 1, dim, dtype=np.int32), rows.observation.ravel()
        ),
        "observation_version": pa.repeat(bandit.problem.observation_version, n),
        "action_set_version": pa.repeat(bandit.problem.action_set_version, n),
        "action_id": pa.array(bandit.problem.actions).take(pa.array(rows.action)),
        "propensity": pa.array(rows.propensity),
        "epsilon": pa.repeat(0.05, n),
        "served": pa.repeat(True, n),
        "schema_version": pa.repeat(pa.scalar(1, pa.int32()), n),
        "reward": pa.array(rows.reward.astype(np.float64)),
    }
    open_backend(bandit, settings).store().append_interactions(pa.table(columns, INTERACTION_SCHEMA))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    bandit = Bandit.from_yaml(ROOT / "dags" / "bandits" / "movielens.yaml")
    problem, window = bandit.problem, (0, args.rows)
    rows = random_rows(args.rows, problem.observation_dim, problem.num_actions)
    folds = (rows.seq % 5).astype(np.int8)
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(home=Path(scratch) / "home")
        fill_store(bandit, settings, rows)
        dataset = Path(scratch) / "dataset"

        def write() -> object:
            return trajectories.write(dataset, problem, [window], [Part(window, rows, folds)])

        def read() -> object:
            return [float(part.observation.sum()) for part in Dataset.open(dataset).read()]

        write()
        table: list[Row] = [
            ("write shards", args.rows, write),
            ("read shards, check crc, touch observations", args.rows, read),
            ("ingester: store to shards", args.rows, lambda: ingester.run(bandit, settings, [window], dataset)),
        ]
        print_table(table, args.repeats)


if __name__ == "__main__":
    main()
