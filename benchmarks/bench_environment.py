"""The environment: reading ratings, factorising them, rewards with and without noise. Synthetic ratings."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from timing import Row, print_table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rl_core.movielens.data import load_ratings
from rl_core.movielens.environment import MovieLensEnvironment, normals
from rl_core.movielens.synthetic import write_synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "u.data"
        write_synthetic(path)
        ratings = load_ratings(path)
        quiet = MovieLensEnvironment(ratings, 20, 20)
        noisy = MovieLensEnvironment(ratings, 20, 20, noise_sd=1.0)
        rng = np.random.default_rng(0)
        users, actions = rng.integers(0, len(quiet.user_ids), args.rows), rng.integers(0, 20, args.rows)
        ids = [f"0192f5a0-0000-7000-8000-{i:012d}" for i in range(args.rows)]
        logged = quiet.observations_f32[users]
        table: list[Row] = [
            ("read u.data, ratings", 100_000, lambda: load_ratings(path)),
            ("make the environment", 1, lambda: MovieLensEnvironment(ratings, 20, 20)),
            ("rewards without noise", args.rows, lambda: quiet.rewards(users, actions, ids)),
            ("rewards with noise", args.rows, lambda: noisy.rewards(users, actions, ids)),
            ("noise of an event id", args.rows, lambda: normals(7, ids)),
            ("users of logged observations", args.rows, lambda: quiet.users_of(logged)),
            ("write synthetic u.data, ratings", 100_000, lambda: write_synthetic(path)),
        ]
        print_table(table, args.repeats)


if __name__ == "__main__":
    main()
