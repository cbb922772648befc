"""The Delta store beyond the contract: files, foreign folders, columns added later, killed writers."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rl_core.backends.local.store.delta.table import DeltaTable
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.errors import StoreError
from rl_core.schema import REWARD_SCHEMA
from tests.harness.patience import until

REPOSITORY = Path(__file__).parents[2]
SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)])
WIDER = SCHEMA.append(pa.field("note", pa.string()))

APPEND = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import pyarrow as pa
from rl_core.backends.local.store.event_store import DeltaEventStore
from rl_core.schema import REWARD_SCHEMA

store = DeltaEventStore(Path(sys.argv[1]))
now = datetime.now(UTC)
last = store.last_offset("rewards", "bus-1")
while True:
    common = dict(reward=1.0, observed_at=now, received_at=now, producer="bus-1")
    rows = [dict(common, event_id=str(n), offset=n) for n in range(last + 1, last + 11)]
    store.append("rewards", pa.Table.from_pylist(rows, schema=REWARD_SCHEMA))
    last += 10
    print(last, flush=True)
"""


def numbers(*values: int) -> pa.Table:
    return pa.table({"n": pa.array(values, pa.int64())}, schema=SCHEMA)


def append(table: DeltaTable, rows: pa.Table, *version: Any) -> None:
    with table.writing():
        table.append(rows, *version)


def read(table: DeltaTable) -> list[int]:
    return sorted(table.dataset().to_table()["n"].to_pylist())


class TestTheFolder:
    def test_of_another_program_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "letters.txt").write_text("")
        with pytest.raises(StoreError, match=r"is not an event store: it holds 'letters\.txt'"):
            DeltaEventStore(tmp_path)

    def test_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "store").write_text("")
        with pytest.raises(StoreError, match="is not an event store"):
            DeltaEventStore(tmp_path / "store")

    def test_may_have_any_name(self, tmp_path: Path) -> None:
        table = DeltaTable(tmp_path / "a b é", SCHEMA)
        append(table, numbers(1))
        assert read(table) == [1]

    def test_made_anew_is_noticed(self, tmp_path: Path) -> None:
        import shutil

        table = DeltaTable(tmp_path / "t", SCHEMA)
        for n in range(3):
            append(table, numbers(n), "app", n + 1)
        shutil.rmtree(tmp_path / "t")
        assert table.version_of("app") == 0
        append(table, numbers(7), "app", 1)
        assert (read(table), table.version_of("app")) == ([7], 1)

    def test_with_a_table_of_other_columns_is_refused(self, tmp_path: Path) -> None:
        append(DeltaTable(tmp_path / "rewards", SCHEMA), numbers(1))
        with pytest.raises(StoreError, match="without column 'event_id'; it is not an event store"):
            DeltaEventStore(tmp_path).last_offset("rewards", "a")


class TestFiles:
    def test_stay_few_and_nothing_is_lost_over_many_commits(self, tmp_path: Path) -> None:
        table = DeltaTable(tmp_path / "t", SCHEMA)
        late = DeltaTable(tmp_path / "t", SCHEMA)
        for n in range(150):
            append(table, numbers(n), "app", n + 1)
            assert late.version_of("app") == n + 1
        assert read(table) == read(late) == read(DeltaTable(tmp_path / "t", SCHEMA)) == list(range(150))
        assert len(table.dataset().files) < 70
        assert DeltaTable(tmp_path / "t", SCHEMA).version_of("app") == 150

    def test_read_before_a_compaction_stay_readable(self, tmp_path: Path) -> None:
        table = DeltaTable(tmp_path / "t", SCHEMA)
        append(table, numbers(-1))
        before = table.dataset()
        for n in range(70):
            append(table, numbers(n))
        assert before.to_table()["n"].to_pylist() == [-1]

    def test_that_can_not_match_are_left_out(self, tmp_path: Path) -> None:
        table = DeltaTable(tmp_path / "t", SCHEMA)
        for n in range(5):
            append(table, numbers(10 * n, 10 * n + 9))
        assert len(table.dataset(lambda file: file.may_hold("n", 16, 25)).files) == 2


class TestADiskThatRefuses:
    def test_keeps_no_half_written_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The logger tries again and again: what each try left would take the room that the bus needs."""
        table = DeltaTable(tmp_path / "numbers", SCHEMA)
        append(table, numbers(1))

        def refuse(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", refuse)
            for _ in range(3):
                with pytest.raises(StoreError, match="No space left"):
                    append(table, numbers(2))
        assert len(list((tmp_path / "numbers").glob("*.parquet"))) == 1
        append(table, numbers(2))
        assert read(table) == [1, 2]


class TestDamage:
    @pytest.mark.parametrize("damage", ["removed", "cut short"])
    def test_to_a_file_is_an_error_that_names_it(self, tmp_path: Path, damage: str) -> None:
        store = DeltaEventStore(tmp_path / "store")
        now = datetime(2026, 1, 1, tzinfo=UTC)
        row = {"event_id": "a", "reward": 1.0, "observed_at": now, "received_at": now, "producer": "bus-1", "offset": 1}
        store.append("rewards", pa.Table.from_pylist([row], schema=REWARD_SCHEMA))
        (file,) = (tmp_path / "store" / "rewards").glob("*.parquet")
        if damage == "removed":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(StoreError, match=file.name):
            store.since("rewards", {})
        with pytest.raises(StoreError, match=file.name):
            store.query("SELECT sum(reward) FROM rewards")


class TestColumnsAddedLater:
    def test_are_null_in_old_rows_and_old_writers_go_on(self, tmp_path: Path) -> None:
        old, new = DeltaTable(tmp_path / "t", SCHEMA), DeltaTable(tmp_path / "t", WIDER)
        append(old, numbers(1))
        append(new, pa.table({"n": [2], "note": ["two"]}, schema=WIDER))
        append(old, numbers(3))
        rows = new.dataset().to_table().sort_by("n").to_pylist()
        assert rows == [{"n": 1, "note": None}, {"n": 2, "note": "two"}, {"n": 3, "note": None}]
        assert read(old) == [1, 2, 3]


class TestAKilledWriter:
    def test_loses_nothing_it_acknowledged_and_the_next_goes_on(self, tmp_path: Path) -> None:
        store = DeltaEventStore(tmp_path / "store")
        for _ in range(2):
            command = [sys.executable, "-c", APPEND, str(tmp_path / "store")]
            writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
            assert writer.stdout is not None
            seen = [writer.stdout.readline() for _ in range(6)]
            time.sleep(0.013)
            writer.kill()
            seen += writer.communicate()[0].splitlines()
            offsets = store.since("rewards", {})["offset"].to_pylist()
            assert offsets == list(range(1, len(offsets) + 1))
            assert store.last_offset("rewards", "bus-1") == len(offsets) >= int(seen[-1])


class TestWaiting:
    def test_for_the_joiners_turn_is_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        store = DeltaEventStore(tmp_path / "store")
        taken = threading.Event()

        def wait() -> None:
            with store.joiner_lock():
                taken.set()

        thread = threading.Thread(target=wait)
        with caplog.at_level(logging.INFO), store.joiner_lock():
            thread.start()
            until(lambda: "waiting for the joiner's turn, held by another process" in caplog.text)
            assert not taken.wait(0.2)
        thread.join()
        assert taken.is_set()
