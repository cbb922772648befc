"""The exported SavedModel is a stock TF-Agents policy that agrees with the NumPy policy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.bandit.linucb import LinUCB, accumulate
from rl_core.policy.saved_model import export

pytestmark = pytest.mark.tf

ACTIONS, DIM = 5, 6
TIE = 1e-6

# A process that imports nothing but TensorFlow and NumPy; `TimeStep` is any named tuple with these fields.
ASK = """
import collections, pathlib, sys
import numpy as np
import tensorflow as tf
TimeStep = collections.namedtuple("TimeStep", "step_type reward discount observation")
observations = np.load("observations.npy")
n = len(observations)
for path in sorted(pathlib.Path(".").glob("policy-*")):
    policy = tf.saved_model.load(str(path))
    step = policy.action(TimeStep(tf.zeros([n], tf.int32), tf.zeros([n]), tf.ones([n]), tf.constant(observations)))
    np.save(f"actions-{path.name}.npy", step.action.numpy())
assert not any(name.startswith(("tf_agents", "tensorflow_probability", "rl_core")) for name in sys.modules)
"""

EXPORT = """
import sys
from pathlib import Path
from rl_core.bandit.linucb import LinUCB, Statistics
from rl_core.policy.saved_model import export
export(LinUCB(Statistics.load(Path(sys.argv[1])), 0.2, 0.01), Path(sys.argv[2]))
"""


def _policy(rows: int, scale: float = 1.0) -> LinUCB:
    rng = np.random.default_rng(5)
    observations = (rng.standard_normal((rows, DIM)) * scale).astype(np.float32)
    actions = rng.integers(0, ACTIONS, rows)
    return LinUCB(accumulate(observations, actions, rng.standard_normal(rows), ACTIONS), 0.2, 0.01)


def _observations() -> NDArray[np.float32]:
    return np.random.default_rng(6).standard_normal((1000, DIM)).astype(np.float32)


def _assert_agrees(actions: NDArray[np.int32], policy: LinUCB) -> None:
    scores = policy.scores(_observations())
    best = np.sort(scores, axis=1)
    clear = best[:, -1] - best[:, -2] > TIE
    assert clear.mean() > 0.9
    assert actions.dtype == np.int32
    assert np.array_equal(actions[clear], scores.argmax(axis=1)[clear])


def _run(code: str, cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_process_with_tensorflow_alone_gets_the_actions_of_the_numpy_policy(tmp_path: Path) -> None:
    policies = {"few": _policy(200), "many": _policy(20_000), "badly-scaled": _policy(2_000, scale=100.0)}
    for name, policy in policies.items():
        export(policy, tmp_path / f"policy-{name}")
    np.save(tmp_path / "observations.npy", _observations())
    _run(ASK, tmp_path)
    for name, policy in policies.items():
        _assert_agrees(np.load(tmp_path / f"actions-policy-{name}.npy"), policy)


def test_tf_agents_own_loader_takes_it(tmp_path: Path) -> None:
    policy = _policy(200)
    export(policy, tmp_path / "policy")
    from tf_agents.policies.py_tf_eager_policy import SavedModelPyTFEagerPolicy
    from tf_agents.trajectories import time_step

    loaded = SavedModelPyTFEagerPolicy(str(tmp_path / "policy"), load_specs_from_pbtxt=True, batch_time_steps=False)
    step = time_step.restart(_observations(), batch_size=1000)
    _assert_agrees(loaded.action(step).action, policy)


def test_two_processes_export_the_same_bytes_and_keep_quiet(tmp_path: Path, repo: Path) -> None:
    _policy(200).statistics.save(tmp_path / "statistics.npz")
    for name in ("one", "two"):
        assert _run(EXPORT, repo, str(tmp_path / "statistics.npz"), str(tmp_path / name)) == ""
    files = sorted(f.relative_to(tmp_path / "one") for f in (tmp_path / "one").rglob("*") if f.is_file())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
