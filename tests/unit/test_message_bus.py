"""The SQLite bus beyond the contract: processes, crashes, clocks and broken files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.message_bus import SqliteBus
from rl_core.clock import SteadyClock
from rl_core.errors import BusError

REPOSITORY = Path(__file__).parents[2]
DAY_US = 86_400_000_000

PUBLISH = """
import sys
from pathlib import Path
from rl_core.backends.contracts.bus import Message
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


@dataclass
class Machine:
    """Whose wall clock can be set, in µs since 1970."""

    wall_us: int = 1_790_000_000_123_457
    up_us: int = 1_000_000
    boot: str = "first"

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: 1000 * self.wall_us, lambda: 1000 * self.up_us, lambda: self.boot)

    def passes(self, us: int) -> None:
        self.wall_us += us
        self.up_us += us


def stamp_us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class TestTheClock:
    def test_microseconds_survive(self, tmp_path: Path) -> None:
        machine = Machine()
        bus = SqliteBus(tmp_path / "bus.sqlite", clock=machine.clock())
        receipt = bus.publish([decision("a")])[0]
        assert stamp_us(receipt.received_at) == machine.wall_us
        assert receipt.received_at == bus.read("decisions", 0)[0].received_at
        bus.close()

    @pytest.mark.parametrize("jumps", [[DAY_US], [-DAY_US], [DAY_US, -DAY_US], [-DAY_US, DAY_US]])
    def test_that_jumps_moves_the_stamps_by_a_tenth_at_most(self, tmp_path: Path, jumps: list[int]) -> None:
        machine = Machine()
        bus = SqliteBus(tmp_path / "bus.sqlite", clock=machine.clock())
        stamps = [stamp_us(bus.publish([decision("begin")])[0].received_at)]
        for number, jump in enumerate(jumps):
            machine.wall_us += jump
            for n in range(10):
                machine.passes(1_000_000)
                told = stamp_us(bus.now())
                stamps.append(stamp_us(bus.publish([decision(f"{number}-{n}")])[0].received_at))
                assert stamps[-2] <= told <= stamps[-1]
        steps = [after - before for before, after in pairwise(stamps)]
        assert all(900_000 <= step <= 1_100_000 for step in steps)
        assert [stamp_us(d.received_at) for d in bus.read("decisions", 0)] == stamps
        bus.close()

    @pytest.mark.parametrize("jump", [DAY_US, -DAY_US])
    def test_that_jumps_while_nobody_has_the_bus_open_moves_nothing(self, tmp_path: Path, jump: int) -> None:
        machine = Machine()
        bus = SqliteBus(tmp_path / "bus.sqlite", clock=machine.clock())
        before = stamp_us(bus.publish([decision("a")])[0].received_at)
        bus.close()
        machine.wall_us += jump
        machine.passes(10_000_000)
        again = SqliteBus(tmp_path / "bus.sqlite", clock=machine.clock())
        assert abs(stamp_us(again.publish([decision("b")])[0].received_at) - before - 10_000_000) <= 1_000_000
        again.close()

    def test_is_one_for_all_who_have_the_bus_open(self, tmp_path: Path) -> None:
        machine = Machine()
        one = SqliteBus(tmp_path / "bus.sqlite", clock=machine.clock())
        machine.wall_us += DAY_US
        other = SqliteBus(tmp_path / "bus.sqlite", clock=machine.clock())
        stamps = []
        for n in range(20):
            machine.passes(100_000)
            stamps.append(stamp_us((one, other)[n % 2].publish([decision(str(n))])[0].received_at))
        assert all(90_000 <= after - before <= 110_000 for before, after in pairwise(stamps))
        one.close()
        other.close()

    def test_after_a_restart_of_the_machine_goes_on_from_the_last_stamp(self, tmp_path: Path) -> None:
        path, machine = tmp_path / "bus.sqlite", Machine()
        bus = SqliteBus(path, clock=machine.clock())
        bus.publish([decision("a")])
        last = bus.watermark()
        bus.prune("decisions", 1, datetime(9999, 1, 1, tzinfo=UTC))
        bus.close()
        machine = Machine(wall_us=machine.wall_us - DAY_US, up_us=5, boot="second")
        again = SqliteBus(path, clock=machine.clock())
        assert again.publish([decision("b")])[0].received_at == again.watermark() == last
        again.close()

    def test_what_is_published_after_now_is_not_stamped_before_it(self, tmp_path: Path) -> None:
        machine = Machine()
        one, other = (SqliteBus(tmp_path / "bus.sqlite", clock=machine.clock()) for _ in range(2))
        machine.wall_us += DAY_US
        machine.passes(10_000_000)
        told = one.now()
        machine.wall_us -= 2 * DAY_US
        other.publish([decision("held back")])
        assert one.publish([decision("b")])[0].received_at >= told
        one.close()
        other.close()


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
        assert bus._file is not None
        bus._file.writer.execute("PRAGMA max_page_count = 20")
        with pytest.raises(BusError, match="the disk is full; free some space"):
            bus.publish([decision("b", 200_000), decision("c")])
        assert bus.lookup("decisions", "c") is None
        bus._file.writer.execute("PRAGMA max_page_count = 10000")
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
