"""The SQLite bus beyond the contract: processes, crashes, clocks and broken files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rl_core.backends.base import Message
from rl_core.backends.local.message_bus import SqliteBus
from rl_core.errors import BusError

REPOSITORY = Path(__file__).parents[2]

PUBLISH = """
import sys
from pathlib import Path
from rl_core.backends.base import Message
from rl_core.backends.local.message_bus import SqliteBus

bus = SqliteBus(Path(sys.argv[1]), busy_timeout_s=60)
for i in range(int(sys.argv[3])):
    name = sys.argv[2].encode()
    decision, reward = bus.publish([Message("decisions", str(i), name), Message("rewards", str(i), name)])
    print(i, decision.payload.decode(), reward.offset, flush=True)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def decision(key: str, size: int = 1) -> Message:
    return Message("decisions", key, b"x" * size)


class TestProcesses:
    def test_that_open_a_new_bus_together_share_one_producer_and_one_order(self, tmp_path: Path) -> None:
        path = tmp_path / "bus" / "bus.sqlite"
        programs = [start(PUBLISH, path, name, 40) for name in "abc"]
        printed = [program.communicate(timeout=60) for program in programs]
        assert [stderr for _, stderr in printed] == ["", "", ""]
        lines = [line.split() for stdout, _ in printed for line in stdout.splitlines()]
        bus = SqliteBus(path)
        winners = {d.key: d.payload.decode() for d in bus.read("decisions", 0)}
        assert all(winners[key] == payload for key, payload, _ in lines)
        assert sorted(int(offset) for *_, offset in lines) == list(range(1, 121))
        bus.close()

    def test_killed_while_publishing_lose_nothing_they_acknowledged(self, tmp_path: Path) -> None:
        path = tmp_path / "bus.sqlite"
        for round_ in range(3):
            program = start(PUBLISH, path, round_, 100_000)
            assert program.stdout is not None
            seen = [program.stdout.readline() for _ in range(30)]
            program.kill()
            seen += program.communicate()[0].splitlines()
            acknowledged = {int(line.split()[2]) for line in seen if len(line.split()) == 3}
            bus = SqliteBus(path)
            offsets = [d.offset for d in bus.read("rewards", 0)]
            bus.close()
            assert offsets == list(range(1, len(offsets) + 1))
            assert acknowledged <= set(offsets)


class TestTheClock:
    def test_set_back_never_reorders_messages(self, tmp_path: Path) -> None:
        times = iter([5_000_000, 1_000_000, 2_000_000, 9_000_000])
        bus = SqliteBus(tmp_path / "bus.sqlite", clock=lambda: next(times))
        stamps = [bus.publish([decision(key)])[0].received_at.timestamp() for key in "abcd"]
        assert stamps == [5.0, 5.0, 5.0, 9.0]
        bus.close()

    def test_set_back_is_seen_through_after_pruning_and_restart(self, tmp_path: Path) -> None:
        path = tmp_path / "bus.sqlite"
        bus = SqliteBus(path, clock=lambda: 5_000_000)
        bus.publish([decision("a")])
        bus.prune("decisions", 1, datetime(9999, 1, 1, tzinfo=UTC))
        bus.close()
        again = SqliteBus(path, clock=lambda: 1_000_000)
        assert again.publish([decision("b")])[0].received_at.timestamp() == 5.0
        assert again.watermark().timestamp() == 5.0
        again.close()

    def test_microseconds_survive(self, tmp_path: Path) -> None:
        bus = SqliteBus(tmp_path / "bus.sqlite", clock=lambda: 1_790_000_000_123_457)
        receipt = bus.publish([decision("a")])[0]
        expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=1_790_000_000_123_457)
        assert receipt.received_at == bus.read("decisions", 0)[0].received_at == expected
        bus.close()


class TestErrorsSayWhatToDo:
    def test_another_programs_database(self, tmp_path: Path) -> None:
        path = tmp_path / "other.sqlite"
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE theirs (x)")
        db.close()
        with pytest.raises(BusError, match=r"other\.sqlite is another program's SQLite file"):
            SqliteBus(path)

    def test_not_a_database(self, tmp_path: Path) -> None:
        path = tmp_path / "bus.sqlite"
        path.write_bytes(b"no database at all" * 100)
        with pytest.raises(BusError, match="is not a message bus; move it away"):
            SqliteBus(path)

    def test_damaged(self, tmp_path: Path) -> None:
        path = tmp_path / "bus.sqlite"
        bus = SqliteBus(path)
        bus.publish([decision(str(i), 1000) for i in range(200)])
        bus.close()
        content = bytearray(path.read_bytes())
        content[4096 * 2 :] = b"\xa5" * (len(content) - 4096 * 2)
        path.write_bytes(content)
        with pytest.raises(BusError, match="the file is damaged"):
            SqliteBus(path).publish([decision("new")])

    def test_locked(self, tmp_path: Path) -> None:
        path = tmp_path / "bus.sqlite"
        bus = SqliteBus(path, busy_timeout_s=0.05)
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusError, match=r"locked for more than 0\.05 s"):
            bus.publish([decision("a")])
        holder.execute("ROLLBACK")
        assert bus.publish([decision("a")])[0].offset == 1
        holder.close()
        bus.close()

    def test_a_full_disk_takes_nothing_and_hurts_nothing(self, tmp_path: Path) -> None:
        bus = SqliteBus(tmp_path / "bus.sqlite")
        bus.publish([decision("a")])
        bus._writer.execute("PRAGMA max_page_count = 20")
        with pytest.raises(BusError, match="the disk is full; free some space"):
            bus.publish([decision("b", 200_000), decision("c")])
        assert bus.lookup("decisions", "c") is None
        bus._writer.execute("PRAGMA max_page_count = 10000")
        assert bus.publish([decision("c")])[0].offset == 2
        bus.close()

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "bus").write_text("")
        with pytest.raises(BusError, match=r"bus/bus\.sqlite: "):
            SqliteBus(tmp_path / "bus" / "bus.sqlite")

    def test_used_after_close(self, tmp_path: Path) -> None:
        bus = SqliteBus(tmp_path / "bus.sqlite")
        bus.close()
        with pytest.raises(BusError, match="this bus was closed; open it again"):
            bus.publish([decision("a")])
