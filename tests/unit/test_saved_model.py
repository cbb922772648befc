"""The exported SavedModel chooses as the NumPy policy and as TF-Agents' own do, and costs little for many actions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.bandit.linucb import LinUCB, Statistics, accumulate
from rl_core.policy.saved_model import export, import_tf_agents, policy_of
from tests.harness.patience import patient

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
export(LinUCB.of(Statistics.load(Path(sys.argv[1])), 0.2, 0.01), Path(sys.argv[2]))
"""


def _policy(rows: int, scale: float = 1.0, num_actions: int = ACTIONS, dim: int = DIM) -> LinUCB:
    return LinUCB.of(_sums(rows, scale, num_actions, dim), 0.2, 0.01)


def _sums(rows: int, scale: float = 1.0, num_actions: int = ACTIONS, dim: int = DIM) -> Statistics:
    rng = np.random.default_rng(5)
    observations = (rng.standard_normal((rows, dim)) * scale).astype(np.float32)
    actions = rng.integers(0, num_actions, rows)
    return accumulate(observations, actions, rng.standard_normal(rows), num_actions)


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
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd, timeout=patient(200)
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
    _sums(200).save(tmp_path / "statistics.npz")
    for name in ("one", "two"):
        assert _run(EXPORT, repo, str(tmp_path / "statistics.npz"), str(tmp_path / name)) == ""
    files = sorted(f.relative_to(tmp_path / "one") for f in (tmp_path / "one").rglob("*") if f.is_file())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_scores_and_actions_are_those_of_tf_agents_own_policy_of_the_same_statistics(tmp_path: Path) -> None:
    import_tf_agents()
    import tensorflow as tf
    from tf_agents.bandits.policies.lin_ucb_policy import LinearUCBPolicy
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import time_step

    ours, sums = _policy(4_000, num_actions=20), _sums(4_000, num_actions=20)
    eigenvalues, eigenvectors = np.linalg.eigh(sums.a)
    stock = LinearUCBPolicy(
        tensor_spec.BoundedTensorSpec([], tf.int32, 0, 19, "action"),
        [tf.constant(a) for a in sums.a],
        [tf.constant(b) for b in sums.b],
        [tf.constant(n) for n in sums.n],
        time_step.time_step_spec(tensor_spec.TensorSpec([DIM], tf.float32, "observation")),
        alpha=0.2,
        eig_vals=[tf.constant(one) for one in eigenvalues],
        eig_matrix=[tf.constant(one) for one in eigenvectors],
        tikhonov_weight=0.01,
        emit_policy_info=("predicted_rewards_optimistic",),
    )
    step = time_step.restart(tf.constant(_observations()), batch_size=1000)
    expected = stock.action(step)
    scores = expected.info.predicted_rewards_optimistic.numpy()
    assert np.abs(policy_of(ours).scores(step.observation).numpy() - scores).max() < 1e-12
    export(ours, tmp_path / "policy")
    loaded = tf.saved_model.load(str(tmp_path / "policy"))
    assert np.array_equal(loaded.action(step).action.numpy(), expected.action.numpy())


def test_a_thousand_actions_cost_no_more_than_their_numbers(tmp_path: Path) -> None:
    actions, dim = 1_000, 16
    export(_policy(20_000, num_actions=actions, dim=dim), tmp_path / "policy")
    numbers = 8 * actions * dim * (dim + 1)
    assert sum(file.stat().st_size for file in (tmp_path / "policy").rglob("*") if file.is_file()) < numbers + 200_000
