"""The policy for TensorFlow, in TF-Agents' form: what its `PolicySaver` writes of a policy with our statistics.

It loads with plain `tf.saved_model.load` and answers `action(time_step)`, but not `distribution`. It chooses as
TF-Agents' `LinearUCBPolicy` does of the same statistics, but holds two stacked tensors: the stock policy keeps five
variables and a dozen operations for each action, and took minutes to save a thousand. Everything is float64, solved
exactly: TF-Agents' default, conjugate gradients in float32 cut off after d steps, chose another action than the exact
solution for 1 of 737 MovieLens users, with scores more than 1e-3 apart.
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

from rl_core.errors import PolicyError
from rl_core.policy.solving import Model


def export(model: Model, out: Path) -> None:
    """Save the policy as the SavedModel folder `out`; in a fresh process, equal policies give equal bytes.

    Its observation is float32 [batch, d], its action int32 [batch]. Takes a second, and 5 more to import TensorFlow.
    """
    import_tf_agents()
    from absl import logging
    from tf_agents.policies import policy_saver

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # it warns of the slash in its own parameter names
    try:
        with _third_party_warnings_ignored():
            saver = policy_saver.PolicySaver(policy_of(model))
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
            import tf_agents.policies.policy_saver  # noqa: F401

            tf.constant(0)  # starts the runtime, which looks for a GPU and complains
    except ModuleNotFoundError as error:
        raise PolicyError(
            f"{error.name} is not installed, which policies are saved with; on Python 3.11: "
            "pip install 'banditloop[job]', then pip install --no-deps tf-agents==0.19.0"
        ) from error


def policy_of(model: Model) -> Any:
    """Make the `TFPolicy`; its `scores` [n, K] of observations [n, d] are the upper confidence bounds."""
    import_tf_agents()
    import tensorflow as tf
    import tensorflow_probability as tfp
    from tf_agents.policies import tf_policy
    from tf_agents.specs import tensor_spec
    from tf_agents.trajectories import policy_step, time_step

    class StackedLinearUCBPolicy(tf_policy.TFPolicy):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            super().__init__(
                time_step.time_step_spec(tensor_spec.TensorSpec([model.dim], tf.float32, "observation")),
                tensor_spec.BoundedTensorSpec([], tf.int32, 0, model.num_actions - 1, "action"),
            )
            self.theta = tf.Variable(model.theta, trainable=False, name="theta")
            self.root = tf.Variable(model.root, trainable=False, name="root")

        def _variables(self) -> list[Any]:
            return [self.theta, self.root]

        def scores(self, observation: Any) -> Any:
            x = tf.cast(observation, tf.float64)
            # One action after another: all at once would take K times the memory, of large batches too much.
            widths = tf.map_fn(lambda root: tf.norm(tf.matmul(x, root, transpose_b=True), axis=1), self.root)
            return tf.matmul(x, self.theta, transpose_b=True) + model.agent_alpha * tf.transpose(widths)

        def _distribution(self, step: Any, policy_state: Any) -> Any:
            chosen = tf.argmax(self.scores(step.observation), axis=1, output_type=tf.int32)
            return policy_step.PolicyStep(tfp.distributions.Deterministic(chosen), policy_state)

    return StackedLinearUCBPolicy()


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
