"""Training: shards to blocks to a policy to a SavedModel; with --stock, TF-Agents' own way beside it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from timing import Row, print_table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rl_core.bandit.blocks import combine
from rl_core.bandit.linucb import LinUCB
from rl_core.config import Agent
from rl_core.dataset import trajectories
from rl_core.dataset.trajectories import Dataset, Part, Rows
from rl_core.policy import saved_model
from rl_core.policy.artefact import write_artefact
from rl_core.policy.lineage import make_blocks
from rl_core.problem_config import Problem

AGENT = Agent(agent_alpha=0.2, tikhonov_weight=0.01)


def write_dataset(out: Path, problem: Problem, count: int) -> Dataset:
    rng = np.random.default_rng(0)
    dim, actions = problem.observation_dim, problem.num_actions
    rows = Rows(
        np.arange(1, count + 1),
        rng.standard_normal((count, dim)).astype(np.float32),
        rng.integers(0, actions, count).astype(np.int32),
        rng.standard_normal(count).astype(np.float32),
        np.full(count, 1 / actions),
        np.ones((count, actions), np.bool_),
    )
    part = Part((0, count), rows, (rows.seq % 5).astype(np.int8))
    trajectories.write(out, problem, [(0, count)], [part])
    return Dataset.open(out)


def stock_training(dataset: Dataset, rows: int, batch: int) -> Callable[[], object]:
    """A `LinearUCBAgent` trained eagerly on the first rows of the dataset, read by TF-Agents."""
    saved_model.import_tf_agents()
    import tensorflow as tf
    from tf_agents.bandits.agents.lin_ucb_agent import LinearUCBAgent
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import time_step
    from tf_agents.utils.example_encoding_dataset import load_tfrecord_dataset

    agent = LinearUCBAgent(
        time_step.time_step_spec(tensor_spec.TensorSpec([dataset.index.encoder.width], tf.float32, "observation")),
        tensor_spec.BoundedTensorSpec([], tf.int32, 0, len(dataset.index.actions) - 1, "action"),
        alpha=AGENT.agent_alpha,
        tikhonov_weight=AGENT.tikhonov_weight,
    )
    files = [str(dataset.path / shard.file) for shard in dataset.index.shards]

    def train() -> None:
        for experience in (
            load_tfrecord_dataset(files, spec=agent.collect_data_spec, as_trajectories=True)
            .batch(batch)
            .take(rows // batch)
        ):
            agent.train(experience)

    return train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dim", type=int, default=20)
    parser.add_argument("--actions", type=int, default=20)
    parser.add_argument("--stock", action="store_true", help="also train TF-Agents' agent, 8 rows at a time (slow)")
    args = parser.parse_args()
    problem = Problem(
        observation_dim=args.dim,
        observation_version="bench",
        actions=tuple(f"action-{k}" for k in range(args.actions)),
        action_set_version="bench",
        reward_min=-100,
        reward_max=100,
        reward_default=0,
    )
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        dataset = write_dataset(out / "dataset", problem, args.rows)
        blocks = make_blocks(dataset, AGENT.half_life)
        statistics = combine(blocks, args.rows)
        policy = LinUCB.of(statistics, AGENT.agent_alpha, AGENT.tikhonov_weight)
        saved_model.import_tf_agents()
        table: list[Row] = [
            ("train: shards to blocks", args.rows, lambda: make_blocks(dataset, AGENT.half_life)),
            ("export a SavedModel (TensorFlow imported)", 1, lambda: saved_model.export(policy, out / "saved_model")),
            ("write the artefact", 1, lambda: write_artefact(out / "policy", problem, AGENT, statistics, blocks)),
        ]
        if args.stock:
            table.append(("stock agent, 8 rows at a time", 80, stock_training(dataset, 80, 8)))
        print_table(table, args.repeats)


if __name__ == "__main__":
    main()
