"""The ingester's dataset: our rows survive it exactly, TF-Agents reads and trains from it, damage is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_core.bandit.blocks import combine
from rl_core.bandit.linucb import LinUCB
from rl_core.dataset import trajectories
from rl_core.dataset.tfrecord import Layout
from rl_core.dataset.trajectories import DATASET, Dataset, Part, Rows
from rl_core.errors import DataError
from rl_core.features.encoder import Encoder
from rl_core.policy.lineage import make_blocks
from rl_core.policy.saved_model import import_tf_agents
from rl_core.problem_config import Problem

K, DIM = 11, 4
PROBLEM = Problem(
    observation_dim=DIM,
    observation_version="users-v1",
    actions=tuple(f"action-{k}" for k in range(K)),
    action_set_version="eleven-v1",
    reward_min=-10,
    reward_max=10,
    reward_default=0,
)
FIELDS = ("seq", "observation", "action", "reward", "propensity", "eligible")


def _rows(low: int, high: int, seed: int = 3) -> Rows:
    rng = np.random.default_rng(seed)
    n = high - low
    action = rng.integers(0, K, n).astype(np.int32)
    eligible = rng.random((n, K)) < 0.7
    eligible[np.arange(n), action] = True
    return Rows(
        seq=np.arange(low + 1, high + 1),
        observation=rng.standard_normal((n, DIM)).astype(np.float32),
        action=action,
        reward=rng.standard_normal(n).astype(np.float32),
        propensity=1.0 / rng.integers(1, K, n),
        eligible=eligible,
    )


def _write(out: Path, *windows: tuple[int, int]) -> Dataset:
    parts = [Part(window, rows := _rows(*window), (rows.seq % 5).astype(np.int8)) for window in windows]
    trajectories.write(out, PROBLEM, windows, parts)
    return Dataset.open(out)


class TestADataset:
    def test_gives_every_row_back_exactly(self, tmp_path: Path) -> None:
        dataset = _write(tmp_path, (0, 700), (900, 1000))
        for window in dataset.windows:
            read = Rows.concatenated(dataset.read(window))
            read = read.take(np.argsort(read.seq))
            for name in FIELDS:
                assert np.array_equal(getattr(read, name), getattr(_rows(*window), name)), name
        assert dataset.count() == 800
        assert dataset.count((900, 1000)) == 100

    def test_is_grouped_by_fold_then_action_then_seq(self, tmp_path: Path) -> None:
        dataset = _write(tmp_path, (0, 700))
        for fold in range(5):
            rows = Rows.concatenated(dataset.read(fold=fold))
            assert (rows.seq % 5 == fold).all()
            assert np.array_equal(np.lexsort((rows.seq, rows.action)), np.arange(len(rows)))

    def test_has_the_same_bytes_for_the_same_rows(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            _write(tmp_path / name, (0, 9000))
        for file in sorted((tmp_path / "one").iterdir()):
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()

    def test_has_no_shard_for_a_fold_without_rows(self, tmp_path: Path) -> None:
        dataset = _write(tmp_path, (0, 2))
        assert [shard.fold for shard in dataset.index.shards] == [1, 2]

    @pytest.mark.parametrize("content", [b"", b"{}", b"[1", b'{"format": 2}'])
    def test_without_a_readable_index_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / DATASET).write_bytes(content)
        with pytest.raises(DataError, match=r"dataset\.json: .*run the ingester again"):
            Dataset.open(tmp_path)

    def test_that_is_missing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="No such file"):
            Dataset.open(tmp_path / "nowhere")

    def test_with_a_flipped_bit_is_refused(self, tmp_path: Path) -> None:
        dataset = _write(tmp_path, (0, 50))
        shard = tmp_path / dataset.index.shards[2].file
        content = bytearray(shard.read_bytes())
        content[100] ^= 4
        shard.write_bytes(content)
        with pytest.raises(DataError, match=f"{shard.name}: crc32c is"):
            list(dataset.read())

    def test_without_one_of_its_shards_is_refused(self, tmp_path: Path) -> None:
        dataset = _write(tmp_path, (0, 50))
        (tmp_path / dataset.index.shards[0].file).unlink()
        with pytest.raises(DataError, match="can't be read"):
            list(dataset.read())

    def test_of_another_dimension_is_refused(self, tmp_path: Path) -> None:
        dataset = _write(tmp_path, (0, 50))
        foreign = Dataset(tmp_path, dataset.index.model_copy(update={"encoder": Encoder(dim=DIM + 1)}))
        with pytest.raises(DataError, match="run the ingester again"):
            list(foreign.read())


@pytest.mark.tf
class TestTFAgents:
    """Stock code on our shards; the agent is a `LinearUCBAgent` as anyone would make it."""

    @pytest.fixture
    def agent(self) -> Any:
        import_tf_agents()
        import tensorflow as tf
        from tf_agents.bandits.agents.lin_ucb_agent import LinearUCBAgent
        from tf_agents.specs import tensor_spec
        from tf_agents.trajectories import time_step

        return LinearUCBAgent(
            time_step.time_step_spec(tensor_spec.TensorSpec([DIM], tf.float32, "observation")),
            tensor_spec.BoundedTensorSpec([], tf.int32, 0, K - 1, "action"),
            alpha=0.2,
            tikhonov_weight=0.01,
        )

    def _load(self, dataset: Dataset, agent: Any) -> Any:
        from tf_agents.utils import example_encoding_dataset

        files = [str(dataset.path / shard.file) for shard in dataset.index.shards]
        return example_encoding_dataset.load_tfrecord_dataset(
            files, spec=agent.collect_data_spec, as_trajectories=True, num_parallel_reads=1
        )

    def test_reads_every_leaf(self, tmp_path: Path, agent: Any) -> None:
        dataset = _write(tmp_path, (0, 60))
        (batch,) = list(self._load(dataset, agent).batch(60))
        rows = Rows.concatenated(dataset.read())
        assert np.array_equal(batch.observation.numpy()[:, 0], rows.observation)
        assert np.array_equal(batch.action.numpy()[:, 0], rows.action)
        assert np.array_equal(batch.reward.numpy()[:, 0], rows.reward)
        assert batch.is_first().numpy().all()
        assert batch.is_last().numpy().all()
        assert (batch.discount.numpy() == 0).all()

    def test_trains_to_our_statistics_theta_and_actions(self, tmp_path: Path, agent: Any) -> None:
        import tensorflow as tf
        from tf_agents.trajectories import time_step

        dataset = _write(tmp_path, (0, 1000), (1000, 4000))
        for batch in self._load(dataset, agent).batch(400):
            agent.train(batch)
        statistics = combine(make_blocks(dataset, half_life=0.0), head=4000)
        ours = LinUCB.of(statistics, 0.2, 0.01)
        for stock, mine in (
            (np.stack([m.numpy() for m in agent.cov_matrix]), statistics.a),
            (np.stack([v.numpy() for v in agent.data_vector]), statistics.b),
            (agent.theta.numpy(), ours.theta),
        ):
            assert np.abs(stock - mine).max() <= 1e-5 * np.abs(mine).max()
        observations = np.random.default_rng(4).standard_normal((1000, DIM)).astype(np.float32)
        step = time_step.restart(tf.constant(observations), batch_size=1000)
        scores = ours.scores(observations)
        best = np.sort(scores, axis=1)
        clear = best[:, -1] - best[:, -2] > 1e-4
        assert clear.mean() > 0.95
        assert np.array_equal(agent.policy.action(step).action.numpy()[clear], scores.argmax(axis=1)[clear])

    def test_finds_a_record_to_be_a_deterministically_serialised_example(self, tmp_path: Path, agent: Any) -> None:
        import tensorflow as tf

        rows = _rows(0, 1)
        (content,) = Layout(DIM, K).encode(rows)
        (tmp_path / "one.tfrecord").write_bytes(content)
        (record,) = [r.numpy() for r in tf.data.TFRecordDataset(str(tmp_path / "one.tfrecord"))]

        def floats(values: Any) -> Any:
            return tf.train.Feature(float_list=tf.train.FloatList(value=np.atleast_1d(values)))

        def raw(values: Any) -> Any:
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[np.asarray(values).tobytes()]))

        expected = tf.train.Example(
            features=tf.train.Features(
                feature={
                    "step_type": raw(np.int32(0)),
                    "observation": floats(rows.observation[0]),
                    "action": raw(rows.action[0]),
                    "next_step_type": raw(np.int32(2)),
                    "reward": floats(rows.reward[0]),
                    "discount": floats(np.float32(0)),
                    "seq": raw(np.int64(1)),
                    "propensity": raw(rows.propensity[0]),
                    "eligible": raw(np.packbits(rows.eligible[0], bitorder="little")),
                }
            )
        )
        assert record == expected.SerializeToString(deterministic=True)
