"""LinUCB in closed form: rows trained, blocks made and combined, decisions taken. d = K = 20 unless told otherwise."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from timing import Row, print_table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rl_core.bandit.blocks import Block, Meaning, combine, fold_of, make_block
from rl_core.bandit.exploration import choose, draw_uniform
from rl_core.bandit.linucb import LinUCB, accumulate
from rl_core.bandit.shared import SharedLinUCB, Sharing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=20)
    parser.add_argument("--actions", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    rows, actions_count = args.rows, args.actions
    x = rng.normal(size=(rows, args.dim)).astype(np.float32)
    wide = x.astype(np.float64)
    actions, rewards = rng.integers(0, actions_count, rows), rng.normal(size=rows)
    weights, seqs = rng.uniform(0.5, 1.0, rows), np.arange(1, rows + 1)
    ids = [f"0192f5a0-0000-7000-8000-{i:012d}" for i in range(min(rows, 200_000))]
    folds = rng.integers(0, 5, rows)

    def block() -> Block:
        meaning = Meaning("o", tuple(map(str, range(actions_count))))
        return make_block(x, actions, rewards, seqs, folds, (0, rows), 0.0, num_actions=actions_count, meaning=meaning)

    statistics = accumulate(x, actions, rewards, actions_count)
    policy = LinUCB.of(statistics, 0.2, 0.01)
    catalogue, user = _catalogue(10_000, 16, 64), rng.normal(size=(1, 65))
    one, many = x[:1], x[: min(rows, 100_000)]
    path = Path(tempfile.mkdtemp()) / "block.npz"
    block().save(path)

    def decide() -> None:
        for i in range(1000):
            choose(policy.scores(one)[0], None, 0.05, draw_uniform(b"salt", ids[i % len(ids)]))

    table: list[Row] = [
        ("train, float32 observations", rows, lambda: accumulate(x, actions, rewards, actions_count)),
        ("train, float64 observations", rows, lambda: accumulate(wide, actions, rewards, actions_count)),
        ("train, weighted", rows, lambda: accumulate(x, actions, rewards, actions_count, weights)),
        ("make a block of five folds", rows, block),
        ("fold of an event id", len(ids), lambda: fold_of(ids)),
        ("score a batch", len(many), lambda: policy.scores(many)),
        ("decide, one at a time (score, draw, choose)", 1000, decide),
        ("score 10,000 actions of 16 features for a user of 64", 1, lambda: catalogue[0].scores(user)),
        ("… each feature of the user crossed with each of the action", 1, lambda: catalogue[1].scores(user)),
        ("solve a policy", 1, lambda: LinUCB.of(statistics, 0.2, 0.01)),
        ("load a block and combine it", 1, lambda: combine([Block.load(path)], rows)),
    ]
    print_table(table, args.repeats)
    path.unlink()
    path.parent.rmdir()


def _catalogue(actions: int, features: int, user: int) -> list[SharedLinUCB]:
    """Shared models without and with all crosses; what they have learnt makes no difference to their speed."""
    rng, intercept = np.random.default_rng(1), np.asarray([user])
    described = np.concatenate([np.ones((actions, 1)), rng.normal(size=(actions, features))], axis=1)
    found = []
    for crossed in (intercept, np.arange(user + 1)):
        sharing = Sharing(described, (np.arange(user + 1), *[crossed] * features), np.ones(features + 1))
        size = user + 1 + features * len(crossed)
        root = np.triu(rng.normal(size=(size, size)))
        found.append(SharedLinUCB(rng.normal(size=size), root, sharing, 0.5))
    return found


if __name__ == "__main__":
    main()
