"""The policy for TensorFlow: a stock TF-Agents LinUCB policy, filled from our statistics and saved with `PolicySaver`.

It loads with plain `tf.saved_model.load` and answers `action(time_step)`, but not `distribution`. The agent is
TF-Agents' `LinearUCBAgent` with `dtype=float64` and `use_eigendecomp=True`: its default, conjugate gradients in float32
cut off after d steps, chose another action than the exact solution for 1 of 737 MovieLens users, with scores more than
1e-3 apart.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rl_core.bandit.linucb import LinUCB
from rl_core.errors import PolicyError


def export(linucb: LinUCB, out: Path) -> None:
    """Save the policy as the SavedModel folder `out`; in a fresh process, equal policies give equal bytes.

    Its observation is float32 [batch, d], its action int32 [batch]. Takes about 2 s, and 5 s more to import TensorFlow.
    """
    import_tf_agents()
    from absl import logging
    from tf_agents.policies import policy_saver

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # it warns of the slash in its own parameter names
    try:
        with _third_party_warnings_ignored():
            saver = policy_saver.PolicySaver(_agent(linucb).policy)
            del saver.policy.distribution  # its type would bind every loader to import TensorFlow Probability
            saver.save(str(out))
    finally:
        logging.set_verbosity(verbosity)
    _fix_fingerprint(out / "fingerprint.pb")


def import_tf_agents() -> None:
    """Import TensorFlow and TF-Agents once, with Keras 2 and without their start-up chatter on stderr."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "tf_agents.policies.policy_saver" in sys.modules:
        return
    try:
        with _stderr_held_back(), _third_party_warnings_ignored():
            import tensorflow as tf
            import tf_agents.bandits.agents.lin_ucb_agent
            import tf_agents.policies.policy_saver  # noqa: F401

            tf.constant(0)  # starts the runtime, which looks for a GPU and complains
    except ModuleNotFoundError as error:
        raise PolicyError(
            f"{error.name} is not installed, which policies are saved with; on Python 3.11: "
            "pip install 'banditloop[job]', then pip install --no-deps tf-agents==0.19.0"
        ) from error


def _agent(linucb: LinUCB) -> Any:
    import tensorflow as tf
    from tf_agents.bandits.agents import lin_ucb_agent, linear_bandit_agent
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import time_step

    variables = linear_bandit_agent.LinearBanditVariableCollection(
        linucb.dim, linucb.num_actions, use_eigendecomp=True, dtype=tf.float64
    )
    _assign(variables, linucb)
    return lin_ucb_agent.LinearUCBAgent(
        time_step.time_step_spec(tensor_spec.TensorSpec([linucb.dim], tf.float32, "observation")),
        tensor_spec.BoundedTensorSpec([], tf.int32, 0, linucb.num_actions - 1, "action"),
        variable_collection=variables,
        alpha=linucb.agent_alpha,
        tikhonov_weight=_least_penalty(linucb),
        use_eigendecomp=True,
        dtype=tf.float64,
    )


def _assign(variables: Any, linucb: LinUCB) -> None:
    """Assign one by one: training the agent on a batch of N would build an N x N mask per action."""
    statistics = linucb.statistics
    # TF-Agents adds one λ to all coordinates: the least of ours, and what ours is beyond it is in A already.
    beyond = linucb.tikhonov_weight * linucb.scale**2 - _least_penalty(linucb)
    a = statistics.a + np.diag(beyond)
    eigenvalues, eigenvectors = np.linalg.eigh(a)
    variables.theta.assign(linucb.theta)
    for k in range(linucb.num_actions):
        variables.cov_matrix_list[k].assign(a[k])
        variables.data_vector_list[k].assign(statistics.b[k])
        variables.num_samples_list[k].assign(statistics.n[k])
        variables.eig_vals_list[k].assign(np.maximum(eigenvalues[k], 0.0))
        variables.eig_matrix_list[k].assign(eigenvectors[k])


def _least_penalty(linucb: LinUCB) -> float:
    return float(linucb.tikhonov_weight * linucb.scale.min() ** 2)


def _fix_fingerprint(file: Path) -> None:
    """Replace the random uuid in the SavedModel's fingerprint by one made of its hashes."""
    from tensorflow.core.protobuf import fingerprint_pb2

    fingerprint = fingerprint_pb2.FingerprintDef.FromString(file.read_bytes())
    fingerprint.uuid = ""
    fingerprint.uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, fingerprint.SerializeToString(deterministic=True).hex()))
    file.write_bytes(fingerprint.SerializeToString(deterministic=True))


@contextlib.contextmanager
def _third_party_warnings_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "distutils Version classes are deprecated", DeprecationWarning)
        yield


@contextlib.contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Hold back what C++ and Python write to stderr; show it if the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            with open(2, "w", closefd=False) as stream, contextlib.redirect_stderr(stream):
                yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
