"""The exporter's work for many actions: seconds and size of a SavedModel, and how fast TensorFlow decides with it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
from timing import best_seconds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rl_core.bandit.linucb import LinUCB, Statistics
from rl_core.policy import saved_model

TimeStep = namedtuple("TimeStep", "step_type reward discount observation")


def policy(actions: int, dim: int) -> LinUCB:
    """Solve a policy from the sums of 3·dim random rows per action."""
    rng = np.random.default_rng(0)
    statistics = Statistics.zeros(actions, dim)
    for k in range(actions):
        rows = rng.standard_normal((3 * dim, dim))
        statistics.a[k], statistics.b[k] = rows.T @ rows, rng.standard_normal(3 * dim) @ rows
    statistics.n[:] = 3 * dim
    return LinUCB.of(statistics, 0.2, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actions", type=int, nargs="+", default=[20, 1000])
    parser.add_argument("--dim", type=int, default=64)
    args = parser.parse_args()
    started = time.perf_counter()
    saved_model.import_tf_agents()
    print(f"import TensorFlow and TF-Agents: {time.perf_counter() - started:.1f} s")
    import tensorflow as tf

    for actions in args.actions:
        linucb = policy(actions, args.dim)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            saved_model.export(linucb, Path(folder))
            seconds = time.perf_counter() - started
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
            loaded = tf.saved_model.load(folder)
            x = tf.constant(np.random.default_rng(1).standard_normal((1, args.dim)), tf.float32)
            step = TimeStep(tf.zeros([1], tf.int32), tf.zeros([1]), tf.ones([1]), x)
            loaded.action(step)  # traces it
            decides = best_seconds(lambda step=step, ask=loaded.action: ask(step), 20)
        print(
            f"{actions} actions x {args.dim}: {seconds:.1f} s, {size / 1e6:.1f} MB; decides in {decides * 1e3:.1f} ms"
        )


if __name__ == "__main__":
    main()
