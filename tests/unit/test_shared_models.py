"""Models that share what actions have in common: which regression each of them is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rl_core.bandit.linucb import LinUCB, accumulate
from rl_core.bandit.shared import SharedLinUCB, Sharing, solve_hybrid

K, D, P = 5, 4, 2
ALPHA, WEIGHT = 0.7, 0.3
Floats = NDArray[np.float64]


def _rows(seed: int, rows: int = 400, actions: int = K) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Observations whose last number is the intercept, actions and rewards."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.standard_normal((rows, D - 1)), np.ones((rows, 1))], axis=1)
    return x, rng.integers(0, actions, rows), rng.standard_normal(rows)


def _sharing(crossed: tuple[tuple[int, ...], ...] = ((D - 1, 0, 2), (D - 1,)), actions: int = K) -> Sharing:
    numbers = np.random.default_rng(7).standard_normal((actions, P))
    columns = (np.arange(D), *(np.asarray(indices, np.intp) for indices in crossed))
    return Sharing(np.concatenate([np.ones((actions, 1)), numbers], axis=1), columns, np.asarray([1.0, 2.0, 0.5]))


def _phi(x: Floats, k: int, sharing: Sharing) -> Floats:
    """The shared coordinates, written out: [n, m]."""
    return np.concatenate([x[:, at] * sharing.actions[k, j] for j, at in enumerate(sharing.crossed)], axis=1)


def _ridge(rows: Floats, rewards: Floats, asked: Floats, size: Floats) -> tuple[Floats, Floats]:
    """The mean and the width of a ridge regression over whole rows, for each row asked."""
    inverse = np.linalg.inv(rows.T @ rows + WEIGHT * np.diag(size**2))
    return asked @ inverse @ rows.T @ rewards, np.sqrt(np.einsum("ni,ij,nj->n", asked, inverse, asked))


@pytest.mark.parametrize("scale", [None, np.asarray([1.0, 3.0, 0.2, 1.0])], ids=["absolute", "relative"])
class TestAgainstARegressionOverAllRows:
    def test_the_shared_model_is_one_over_the_shared_coordinates(self, scale: Floats | None) -> None:
        (x, actions, rewards), sharing = _rows(1), _sharing()
        policy = SharedLinUCB.of(accumulate(x, actions, rewards, K), ALPHA, WEIGHT, scale, sharing)
        size = sharing.size_of(scale)
        rows = np.stack([_phi(x[i : i + 1], actions[i], sharing)[0] for i in range(len(x))])
        asked = _rows(2, 50)[0]
        for k in range(K):
            given = _phi(asked, k, sharing)
            mean, width = _ridge(rows, rewards, given, np.ones(rows.shape[1]) if size is None else size)
            assert policy.means(asked)[:, k] == pytest.approx(mean, rel=1e-9)
            assert policy.scores(asked)[:, k] == pytest.approx(mean + ALPHA * width, rel=1e-9)

    def test_the_hybrid_model_is_one_over_the_shared_and_each_action_s_own(self, scale: Floats | None) -> None:
        (x, actions, rewards), sharing = _rows(3), _sharing()
        policy = solve_hybrid(accumulate(x, actions, rewards, K), ALPHA, WEIGHT, scale, sharing)
        own = np.ones(D) if scale is None else scale
        size = np.concatenate([_or_ones(sharing.size_of(scale), sharing), np.tile(own, K)])

        def whole(some: Floats, chosen: NDArray[np.int64]) -> Floats:
            shared = np.stack([_phi(some[i : i + 1], chosen[i], sharing)[0] for i in range(len(some))])
            of_each = np.zeros((len(some), K, D))
            of_each[np.arange(len(some)), chosen] = some
            return np.concatenate([shared, of_each.reshape(len(some), -1)], axis=1)

        asked = _rows(4, 50)[0]
        for k in range(K):
            mean, width = _ridge(whole(x, actions), rewards, whole(asked, np.full(50, k)), size)
            assert policy.means(asked)[:, k] == pytest.approx(mean, rel=1e-8)
            assert policy.scores(asked)[:, k] == pytest.approx(mean + ALPHA * width, rel=1e-8)


def _or_ones(size: Floats | None, sharing: Sharing) -> Floats:
    return np.ones(sum(map(len, sharing.crossed))) if size is None else size


def test_written_as_one_theta_and_one_root_for_each_action_the_shared_model_scores_alike() -> None:
    x, actions, rewards = _rows(5)
    policy = SharedLinUCB.of(accumulate(x, actions, rewards, K), ALPHA, WEIGHT, None, _sharing())
    assert LinUCB(policy.theta, policy.root, ALPHA).scores(x) == pytest.approx(policy.scores(x), rel=1e-9)


def test_sums_of_two_windows_added_up_give_the_policy_of_all_rows() -> None:
    x, actions, rewards = _rows(6)
    sums = accumulate(x[:150], actions[:150], rewards[:150], K) + accumulate(x[150:], actions[150:], rewards[150:], K)
    whole = accumulate(x, actions, rewards, K)
    for solve in (SharedLinUCB.of, solve_hybrid):
        one, other = (solve(given, ALPHA, WEIGHT, None, _sharing()) for given in (sums, whole))
        assert one.scores(x) == pytest.approx(other.scores(x), rel=1e-10)


def test_rows_at_once_and_one_by_one_score_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    x, actions, rewards = _rows(8)
    policy = SharedLinUCB.of(accumulate(x, actions, rewards, K), ALPHA, WEIGHT, None, _sharing())
    at_once = policy.scores(x)
    monkeypatch.setattr("rl_core.bandit.shared._SCORES_AT_ONCE", 1)
    assert policy.scores(x) == pytest.approx(at_once, rel=1e-12)


def test_the_hybrid_of_actions_without_rows_is_what_they_share_and_of_many_rows_what_each_has() -> None:
    x, actions, rewards = _rows(9, 20_000, actions=K - 1)  # the last one has none
    rewards = rewards + x[:, 0] * actions  # each action is its own
    sums = accumulate(x, actions, rewards, K)
    hybrid, disjoint = solve_hybrid(sums, 0.0, 1.0, None, _sharing()), LinUCB.of(sums, 0.0, 1.0)
    assert hybrid.theta[: K - 1] == pytest.approx(disjoint.theta[: K - 1], abs=2e-3)
    assert np.abs(disjoint.theta[K - 1]).max() == 0
    assert np.abs(hybrid.theta[K - 1]).max() > 0.1


@pytest.mark.tf
class TestTFAgents:
    def test_per_arm_form_is_the_shared_model_without_crosses(self) -> None:
        from rl_core.policy.saved_model import import_tf_agents

        import_tf_agents()
        import tensorflow as tf
        from tf_agents.bandits.agents.lin_ucb_agent import LinearUCBAgent
        from tf_agents.specs import tensor_spec
        from tf_agents.trajectories import time_step

        (x, actions, rewards), sharing = _rows(10), _sharing(((D - 1,), (D - 1,)))
        per_arm = sharing.actions[:, 1:].astype(np.float32)
        observed = x[:, : D - 1].astype(np.float32)
        exact = np.concatenate([observed.astype(np.float64), np.ones((len(x), 1))], axis=1)
        sharing = Sharing(np.concatenate([np.ones((K, 1)), per_arm], axis=1), sharing.crossed, sharing.size)
        ours = SharedLinUCB.of(accumulate(exact, actions, rewards, K), ALPHA, WEIGHT, None, sharing)
        spec = {
            "global": tensor_spec.TensorSpec([D - 1], tf.float32),
            "per_arm": tensor_spec.TensorSpec([K, P], tf.float32),
        }
        agent = LinearUCBAgent(
            time_step.time_step_spec(spec),
            tensor_spec.BoundedTensorSpec([], tf.int32, 0, K - 1),
            alpha=ALPHA,
            tikhonov_weight=WEIGHT,
            add_bias=True,
            accepts_per_arm_features=True,
            dtype=tf.float64,
            enable_summaries=False,
        )
        agent.train(_experience(agent, observed, per_arm[actions], rewards.astype(np.float32)))
        assert agent.theta.numpy()[0] == pytest.approx(ours._beta, rel=1e-4, abs=1e-6)
        everywhere = np.tile(per_arm, (len(x), 1, 1))
        step = time_step.restart({"global": observed, "per_arm": everywhere}, batch_size=len(x))
        step = tf.nest.map_structure(tf.convert_to_tensor, step)
        best = np.sort(ours.scores(exact), axis=1)
        clear = best[:, -1] - best[:, -2] > 1e-4
        assert clear.mean() > 0.95
        assert np.array_equal(agent.policy.action(step).action.numpy()[clear], ours.scores(exact).argmax(1)[clear])


def _experience(agent: Any, observed: Any, chosen: Any, rewards: Any) -> Any:
    """A trajectory of one step for each row, as the agent's training data spec has it."""
    import tensorflow as tf

    n = len(observed)

    def leaf(spec: Any) -> Any:
        return tf.zeros([n, 1, *spec.shape], spec.dtype)

    empty = tf.nest.map_structure(leaf, agent.training_data_spec)
    info = empty.policy_info._replace(chosen_arm_features=tf.constant(chosen)[:, None])
    observation = {**empty.observation, "global": tf.constant(observed)[:, None]}
    last = tf.fill([n, 1], 2)
    return empty._replace(
        observation=observation, policy_info=info, reward=tf.constant(rewards)[:, None], next_step_type=last
    )
