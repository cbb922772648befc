"""A power cut: whatever end of the store did not reach the disk is set aside, and logger and joiner write it again."""

from __future__ import annotations

import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.store.delta import sync as delta_sync
from rl_core.backends.local.store.delta.table import DeltaTable
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.config import Bandit, Join
from rl_core.joining.event_logger import EventLogger
from rl_core.schema import TABLES

REPOSITORY = Path(__file__).parents[2]
SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": pa.array(values, pa.int64())}, schema=SCHEMA)


def append(table: DeltaTable, *values: int) -> None:
    with table.writing():
        table.append(numbers(*values), "app", table.version_of("app") + len(values))


def state(path: Path) -> tuple[list[int], int]:
    table = DeltaTable(path, SCHEMA)
    return sorted(table.dataset().to_table()["n"].to_pylist()), table.version_of("app")


def commit(table: Path, version: int) -> Path:
    return delta_sync.log_of(table) / f"{version:020d}.json"


def data_of(table: Path, version: int) -> Path:
    import json

    actions = [json.loads(line) for line in commit(table, version).read_text().splitlines()]
    return table / next(str(action["add"]["path"]) for action in actions if "add" in action)


def tear_commit(table: Path, version: int) -> None:
    path = commit(table, version)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_commit(table: Path, version: int) -> None:
    commit(table, version).write_bytes(b"")


def lose_commit(table: Path, version: int) -> None:
    commit(table, version).unlink()


def tear_data(table: Path, version: int) -> None:
    path = data_of(table, version)
    path.write_bytes(path.read_bytes()[:-20])


def zero_data(table: Path, version: int) -> None:
    path = data_of(table, version)
    path.write_bytes(b"\0" * path.stat().st_size)


def lose_data(table: Path, version: int) -> None:
    data_of(table, version).unlink()


DAMAGES = (tear_commit, empty_commit, lose_commit, tear_data, zero_data, lose_data)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Versions 1 to 5, of which the first 2 are known to be on disk."""
    written = DeltaTable(tmp_path / "t", SCHEMA)
    for n in range(1, 6):
        append(written, n)
    delta_sync.note(tmp_path / "t", 2)
    return tmp_path / "t"


class TestATornEnd:
    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("version", [3, 4, 5])
    def test_is_cut_off_and_the_table_goes_on(
        self, table: Path, damage: Callable[[Path, int], None], version: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        damage(table, version)
        sound = list(range(1, version))
        with caplog.at_level(logging.WARNING):
            assert state(table) == (sound, version - 1)
        said = [record for record in caplog.records if "did not reach the disk whole" in record.message]
        nothing_left = damage is lose_commit and version == 5
        assert len(said) == len(list(table.glob(".partial-*"))) == (0 if nothing_left else 1)
        assert delta_sync.settled(table)
        append(DeltaTable(table, SCHEMA), 70)
        assert state(table) == ([*sound, 70], version)

    def test_that_is_whole_stays(self, table: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert state(table) == ([1, 2, 3, 4, 5], 5)
        assert not [record for record in caplog.records if record.name.startswith("rl_core")]
        assert delta_sync.settled(table)

    @pytest.mark.parametrize("marker", [b"", b"\0\0", b"99", None])
    def test_is_found_without_the_note(self, table: Path, marker: bytes | None) -> None:
        (table / "_synced").unlink()
        if marker is not None:
            (table / "_synced").write_bytes(marker)
        tear_commit(table, 5)
        assert state(table) == ([1, 2, 3, 4], 4)

    def test_from_the_first_commit_on_leaves_no_table(self, tmp_path: Path) -> None:
        append(DeltaTable(tmp_path / "t", SCHEMA), 1)
        (tmp_path / "t" / "_synced").unlink()
        tear_commit(tmp_path / "t", 0)
        assert DeltaTable(tmp_path / "t", SCHEMA).version_of("app") == 0
        append(DeltaTable(tmp_path / "t", SCHEMA), 5)
        assert state(tmp_path / "t") == ([5], 1)

    def test_of_a_compaction_gives_the_small_files_back(self, tmp_path: Path) -> None:
        path, before = tmp_path / "t", tmp_path / "before"
        written = DeltaTable(path, SCHEMA)
        for n in range(1, 64):
            append(written, n)
        shutil.copytree(path, before)
        append(written, 64)
        compacted = max(int(file.stem) for file in delta_sync.log_of(path).glob("*[0-9].json"))
        assert compacted > 64
        assert len(DeltaTable(path, SCHEMA).files()) == 1
        delta_sync.note(path, 63)
        tear_data(path, compacted)
        assert state(path) == (list(range(1, 65)), 64)

    def test_checkpoint_is_dropped(self, tmp_path: Path) -> None:
        path = tmp_path / "t"
        written = DeltaTable(path, SCHEMA)
        for n in range(1, 53):
            append(written, n)
        (checkpoint,) = delta_sync.log_of(path).glob("*.checkpoint.parquet")
        checkpoint.write_bytes(checkpoint.read_bytes()[:100])
        delta_sync.note(path, 49)
        assert state(path) == (list(range(1, 53)), 52)
        assert not checkpoint.exists()


class TestTheLog:
    """Each table loses its end on its own; then the event logger runs on."""

    @pytest.mark.parametrize("seed", range(4))
    def test_is_what_it_would_have_been(self, tmp_path: Path, movielens: Bandit, seed: int) -> None:
        from tests.unit.test_event_logger import decision, reward

        bandit = movielens.model_copy(update={"join": Join(reward_wait_s=60, close_early=True)})
        chance = random.Random(seed)
        bus = LocalBus(tmp_path / "bus")
        store = DeltaEventStore(tmp_path / "store")
        logger = EventLogger(bandit, bus, store)
        for n in range(8):
            events = [f"{n}-{k}" for k in range(5)]
            bus.publish([decision(e) for e in events])
            bus.publish([reward(e, 1.0 + k % 4) for k, e in enumerate(events) if k != 3])
            bus.publish([reward(events[0], 2.0)])
            logger.run_once()
        uncut = contents(store)
        assert len(uncut["interactions"]) == 32
        logged = [
            name for name in TABLES if name != "activations"
        ]  # which, like dead letters, are synced before others
        for name in chance.sample(logged, chance.randint(1, 4)):
            table = tmp_path / "store" / name
            last = max(int(file.stem) for file in delta_sync.log_of(table).glob("*[0-9].json"))
            torn = chance.randint(1, last)
            delta_sync.note(table, torn - 1)
            chance.choice(DAMAGES)(table, torn)
        after = DeltaEventStore(tmp_path / "store")
        EventLogger(bandit, bus, after).run_once()
        assert contents(after) == uncut
        assert after.interactions((0, after.head()), ["seq"])["seq"].to_pylist() == list(range(1, 33))
        bus.close()


def contents(store: DeltaEventStore) -> dict[str, list[tuple[object, ...]]]:
    keys = {"decisions": '"offset"', "rewards": '"offset"', "interactions": "event_id", "rewards_apart": '"offset"'}
    columns = {"interactions": "event_id, reward, closed_by", "rewards_apart": "event_id, reward, reason"}
    return {
        name: [
            tuple(row.values())
            for row in store.query(f"SELECT {columns.get(name, 'event_id')} FROM {name} ORDER BY {key}").to_pylist()  # noqa: S608
        ]
        for name, key in keys.items()
    }


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from rl_core.backends.local.store.delta import table as delta_table
delta_table._TEND_EVERY, delta_table._CHECKPOINT_EVERY = 5, 4
from datetime import timedelta
delta_table._KEEP_REMOVED = timedelta(0)
schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
table = delta_table.DeltaTable(Path(sys.argv[1]), schema)
while True:
    with table.writing():
        n = table.version_of("app") + 1
        table.append(pa.table({"n": [n]}, schema=schema), "app", n)
    print(n, flush=True)
"""


class TestAWriterKilledAnywhere:
    """While it appends, compacts, makes checkpoints and takes old files away."""

    @pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
    def test_leaves_a_whole_table(self, tmp_path: Path, seed: int) -> None:
        chance = random.Random(seed)
        path, said = tmp_path / "t", 0
        for _ in range(3):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
            )
            assert writer.stdout is not None
            for _ in range(chance.randint(4, 12)):
                said = int(writer.stdout.readline())
            time.sleep(chance.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
            said = max([said, *map(int, writer.communicate()[0].split())])
            rows, version = state(path)
            assert rows == list(range(1, version + 1))
            assert version >= said
