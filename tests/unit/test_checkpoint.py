"""A restarted joiner begins where the note says; a note that is lost or counts no more costs time alone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_core.backends.contracts.store import Pending
from rl_core.backends.local.joining.joiner import StoreJoiner
from rl_core.backends.local.store import checkpoint
from rl_core.backends.local.store.delta import sync as delta_sync
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join
from tests.log_rows import BUS, JOB, WAIT_S, at, decision, decisions, reward, rewards

pytestmark = pytest.mark.slow


@pytest.fixture
def bandit(movielens: Bandit) -> Bandit:
    return movielens.model_copy(update={"join": Join(reward_wait_s=WAIT_S)})


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the logs that were filled, by seed: several tests begin with the same one."""
    return tmp_path_factory.mktemp("logs")


@pytest.fixture
def filled(logs: Path, tmp_path: Path, bandit: Bandit) -> Callable[[int], DeltaEventStore]:
    """Puts the log of a seed into the test's folder `store`."""

    def copied(seed: int) -> DeltaEventStore:
        if not (logs / str(seed)).exists():
            fill(logs / str(seed), bandit, seed)
        shutil.copytree(logs / str(seed), tmp_path / "store")
        return DeltaEventStore(tmp_path / "store")

    return copied


def fill(path: Path, bandit: Bandit, seed: int) -> None:
    """Write a log of two producers, joined now and then; some of it is open, some waits."""
    chance, store = random.Random(seed), DeltaEventStore(path)
    joiner = StoreJoiner(bandit, store)
    offsets = {("decisions", BUS): 0, ("rewards", BUS): 0, ("decisions", JOB): 0, ("rewards", JOB): 0}
    for second in range(0, 40, 4):
        for producer in (BUS, JOB):
            made, earned = [], []
            for k in range(chance.randint(1, 3)):
                offsets["decisions", producer] += 1
                made.append(decision(f"{producer}-{second}-{k}", second, offsets["decisions", producer], producer))
            for _ in range(chance.randint(1, 4)):
                offsets["rewards", producer] += 1
                event = f"{producer}-{chance.randrange(0, second + 8, 4)}-{chance.randint(0, 2)}"
                earned.append(reward(event, second + 1, offsets["rewards", producer], producer=producer))
            store.append("decisions", decisions(*made))
            store.append("rewards", rewards(*earned))
        if chance.random() < 0.7:
            joiner._noted = float("-inf")
            joiner.run(at(second))


def same(one: Pending, other: Pending) -> bool:
    return one.decisions.equals(other.decisions) and one.rewards.equals(other.rewards) and one.offsets == other.offsets


@pytest.mark.parametrize("seed", range(4))
def test_what_is_pending_is_the_same_without_the_note(
    tmp_path: Path, filled: Callable[[int], DeltaEventStore], seed: int
) -> None:
    store = filled(seed)
    noted = store.pending()
    assert store.checkpoint() is not None
    checkpoint.remove(tmp_path / "store")
    assert same(noted, store.pending())
    assert noted.decisions.num_rows > 0
    assert noted.rewards.num_rows > 0


def test_the_note_moves_on_with_what_is_closed(tmp_path: Path, bandit: Bandit) -> None:
    store = DeltaEventStore(tmp_path / "store")
    store.append("decisions", decisions(*(decision(f"e{n}", n, n) for n in range(1, 6))))
    store.append("rewards", rewards(reward("e3", 4, 1), reward("nobody", 99, 2)))
    StoreJoiner(bandit, store).run(at(3 + WAIT_S + 0.5))
    assert store.checkpoint() == checkpoint.Checkpoint({BUS: 3}, {BUS: 1}, 3, 0, {BUS: 2})


def test_a_reward_that_looks_like_one_that_is_dealt_with_is_not_taken_for_it(tmp_path: Path, bandit: Bandit) -> None:
    early = bandit.model_copy(update={"join": Join(reward_wait_s=WAIT_S, close_early=True)})
    store = DeltaEventStore(tmp_path / "store")
    store.append("decisions", decisions(decision("a", 0)))
    store.append("rewards", rewards(reward("a", 1, 1)))
    StoreJoiner(early, store).run(at(2))
    assert store.checkpoint() is not None
    store.append("rewards", rewards(reward("a", 1, 2)))
    assert StoreJoiner(early, store).run(at(3)).apart == 1


def test_a_note_of_before_it_was_called_checkpoint_counts_until_the_next_one(
    tmp_path: Path, bandit: Bandit, filled: Callable[[int], DeltaEventStore]
) -> None:
    store = filled(3)
    known, older = store.checkpoint(), tmp_path / "store" / checkpoint.OLDER
    (tmp_path / "store" / checkpoint.NOTE).rename(older)
    older.write_text(
        json.dumps({name: part for name, part in json.loads(older.read_text()).items() if name != "activations"})
    )
    assert DeltaEventStore(tmp_path / "store").checkpoint() == known
    StoreJoiner(bandit, DeltaEventStore(tmp_path / "store")).run(at(99))
    assert not older.exists()
    assert (tmp_path / "store" / checkpoint.NOTE).exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"head": 1}'])
def test_a_damaged_note_is_none(tmp_path: Path, filled: Callable[[int], DeltaEventStore], content: bytes) -> None:
    store = filled(1)
    expected = store.pending()
    (tmp_path / "store" / checkpoint.NOTE).write_bytes(content)
    assert same(DeltaEventStore(tmp_path / "store").pending(), expected)


def test_a_note_ahead_of_a_cut_log_is_dropped_for_good(
    tmp_path: Path, filled: Callable[[int], DeltaEventStore]
) -> None:
    filled(2)
    table = tmp_path / "store" / "interactions"
    last = max(int(file.stem) for file in delta_sync.log_of(table).glob("*[0-9].json"))
    commit = delta_sync.log_of(table) / f"{last:020d}.json"
    commit.write_bytes(b"")
    delta_sync.note(table, last - 1)
    cut = DeltaEventStore(tmp_path / "store")
    pending = cut.pending()
    assert not (tmp_path / "store" / checkpoint.NOTE).exists()
    shutil.rmtree(table / next(table.glob(".partial-*")).name)
    assert same(pending, DeltaEventStore(tmp_path / "store").pending())
