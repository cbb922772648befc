"""The local bus beyond the contract: processes, crashes, clocks and what its errors say."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.bus.mark import LOCK_FILE
from rl_core.clock import SteadyClock
from rl_core.errors import BusError
from rl_core.files import PatientLock
from tests.harness.patience import patient

REPOSITORY = Path(__file__).parents[2]
DAY_US = 86_400_000_000

PUBLISH = """
import sys
from pathlib import Path
from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.bus.bus import LocalBus

bus = LocalBus(Path(sys.argv[1]), busy_timeout_s=60)
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
        path = tmp_path / "bus"
        programs = [start(PUBLISH, path, name, 40) for name in "abc"]
        printed = [program.communicate(timeout=patient(60)) for program in programs]
        assert [stderr for _, stderr in printed] == ["", "", ""]
        lines = [line.split() for stdout, _ in printed for line in stdout.splitlines()]
        bus = LocalBus(path)
        winners = {d.key: d.payload.decode() for d in bus.read("decisions", 0)}
        assert all(winners[key] == payload for key, payload, _ in lines)
        assert sorted(int(offset) for *_, offset in lines) == list(range(1, 121))
        bus.close()

    def test_killed_while_publishing_lose_nothing_they_acknowledged(self, tmp_path: Path) -> None:
        path = tmp_path / "bus"
        for round_ in range(3):
            program = start(PUBLISH, path, round_, 100_000)
            assert program.stdout is not None
            seen = [program.stdout.readline() for _ in range(30)]
            program.kill()
            seen += program.communicate()[0].splitlines()
            acknowledged = {int(line.split()[2]) for line in seen if len(line.split()) == 3}
            bus = LocalBus(path)
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
        bus = LocalBus(tmp_path / "bus", clock=machine.clock())
        receipt = bus.publish([decision("a")])[0]
        assert stamp_us(receipt.received_at) == machine.wall_us
        assert receipt.received_at == bus.read("decisions", 0)[0].received_at
        bus.close()

    @pytest.mark.parametrize("jumps", [[DAY_US], [-DAY_US], [DAY_US, -DAY_US], [-DAY_US, DAY_US]])
    def test_that_jumps_moves_the_stamps_by_a_tenth_at_most(self, tmp_path: Path, jumps: list[int]) -> None:
        machine = Machine()
        bus = LocalBus(tmp_path / "bus", clock=machine.clock())
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
        bus = LocalBus(tmp_path / "bus", clock=machine.clock())
        before = stamp_us(bus.publish([decision("a")])[0].received_at)
        bus.close()
        machine.wall_us += jump
        machine.passes(10_000_000)
        again = LocalBus(tmp_path / "bus", clock=machine.clock())
        assert abs(stamp_us(again.publish([decision("b")])[0].received_at) - before - 10_000_000) <= 1_000_000
        again.close()

    def test_is_one_for_all_who_have_the_bus_open(self, tmp_path: Path) -> None:
        machine = Machine()
        one = LocalBus(tmp_path / "bus", clock=machine.clock())
        machine.wall_us += DAY_US
        other = LocalBus(tmp_path / "bus", clock=machine.clock())
        stamps = []
        for n in range(20):
            machine.passes(100_000)
            stamps.append(stamp_us((one, other)[n % 2].publish([decision(str(n))])[0].received_at))
        assert all(90_000 <= after - before <= 110_000 for before, after in pairwise(stamps))
        one.close()
        other.close()

    def test_after_a_restart_of_the_machine_goes_on_from_the_last_stamp(self, tmp_path: Path) -> None:
        path, machine = tmp_path / "bus", Machine()
        bus = LocalBus(path, clock=machine.clock())
        bus.publish([decision("a")])
        last = bus.watermark()
        bus.prune({"decisions": 1}, timedelta(0))
        bus.close()
        machine = Machine(wall_us=machine.wall_us - DAY_US, up_us=5, boot="second")
        again = LocalBus(path, clock=machine.clock())
        assert again.publish([decision("b")])[0].received_at == again.watermark() == last
        again.close()

    def test_what_is_published_after_now_is_not_stamped_before_it(self, tmp_path: Path) -> None:
        machine = Machine()
        one, other = (LocalBus(tmp_path / "bus", clock=machine.clock()) for _ in range(2))
        machine.wall_us += DAY_US
        machine.passes(10_000_000)
        told = one.now()
        machine.wall_us -= 2 * DAY_US
        other.publish([decision("held back")])
        assert one.publish([decision("b")])[0].received_at >= told
        one.close()
        other.close()


class TestErrorsSayWhatToDo:
    @pytest.mark.parametrize("left", ["bus.sqlite", "journal-00000003.log"])
    def test_a_bus_of_the_older_format_is_refused_and_left_as_it_is(self, tmp_path: Path, left: str) -> None:
        (tmp_path / left).write_bytes(b"what is not in the store yet")
        with pytest.raises(BusError, match=r"older format.*shows a lag of 0, then move the folder away"):
            LocalBus(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == [left]

    def test_locked(self, tmp_path: Path) -> None:
        bus = LocalBus(tmp_path, busy_timeout_s=0.05)
        with (
            PatientLock(tmp_path / LOCK_FILE, 5),
            pytest.raises(BusError, match=r"locked for more than 0\.05 s"),
        ):
            bus.publish([decision("a")])
        assert bus.publish([decision("a")])[0].offset == 1
        bus.close()

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "bus").write_text("")
        with pytest.raises(BusError, match=r"/bus: "):
            LocalBus(tmp_path / "bus")

    def test_used_after_close(self, tmp_path: Path) -> None:
        bus = LocalBus(tmp_path / "bus")
        bus.close()
        with pytest.raises(BusError, match="this bus was closed; open it again"):
            bus.publish([decision("a")])

    def test_another_bus_in_its_place_is_not_taken_for_it(self, tmp_path: Path) -> None:
        """A logger would take its offsets for those that are stored."""
        path = tmp_path / "bus"
        logger = LocalBus(path)
        logger.publish([decision(key) for key in "abc"])
        path.rename(tmp_path / "moved away")
        server = LocalBus(path)
        server.publish([decision(key) for key in "abcde"])
        for ask in (lambda: logger.read("decisions", 3), lambda: logger.head("decisions"), logger.watermark):
            with pytest.raises(BusError, match="another bus took its place while it is in use; start its processes"):
                ask()
        for bus in (logger, server):
            bus.close()

    def test_gone_while_in_use(self, tmp_path: Path) -> None:
        path = tmp_path / "bus"
        bus = LocalBus(path)
        bus.publish([decision("a")])
        path.rename(tmp_path / "moved away")
        with pytest.raises(BusError, match="the folder is gone; put it back, or start its processes again"):
            bus.publish([decision("b")])
        path.mkdir()
        with pytest.raises(BusError, match="its files are gone while the bus is in use; start its processes again"):
            bus.publish([decision("b")])
        (path / LOCK_FILE).unlink()
        path.rmdir()
        (tmp_path / "moved away").rename(path)
        assert bus.publish([decision("b")])[0].offset == 2
        bus.close()


class TestRequests:
    def test_what_their_messages_share_is_written_once_and_read_with_each(self, tmp_path: Path) -> None:
        bus, shared = LocalBus(tmp_path), b"written once " * 100
        receipts = bus.publish([Message("decisions", str(n), b"and %d" % n, shared) for n in range(256)])
        assert (receipts[7].payload, receipts[7].repeated) == (b"and 7", False)
        assert [d.payload for d in bus.read("decisions", 0)] == [shared + b"and %d" % n for n in range(256)]
        assert bus.publish([Message("decisions", "9", b"")])[0].payload == bus.lookup("9") == shared + b"and 9"
        assert sum(file.read_bytes().count(shared) for file in tmp_path.iterdir()) == 1
        bus.close()


class TestTheKeys:
    def test_are_found_in_segments_of_any_age_by_processes_that_come_and_go(self, tmp_path: Path) -> None:
        made = [Message("decisions", f"key-{n}", b"first %d " % n * 30) for n in range(6000)]
        for begin in range(0, len(made), 2000):
            bus = LocalBus(tmp_path)
            for n in range(begin, begin + 2000, 40):
                bus.publish(made[n : n + 40])
            bus.close()
        assert len(list(tmp_path.glob("segment-*.log"))) > 2
        assert len(list(tmp_path.glob("segment-*.keys"))) >= 2
        bus = LocalBus(tmp_path)
        receipts = bus.publish([message._replace(payload=b"second") for message in made])
        assert [receipt.payload for receipt in receipts] == [message.payload for message in made]
        assert bus.lookup("key-6000") is None
        bus.close()

    @pytest.mark.parametrize("damage", [b"", b"noise" * 1000])
    def test_that_are_damaged_or_gone_are_made_again(self, tmp_path: Path, damage: bytes) -> None:
        bus = LocalBus(tmp_path)
        for n in range(0, 2000, 40):
            bus.publish([Message("decisions", f"key-{m}", b"first" * 60) for m in range(n, n + 40)])
        bus.close()
        before = {file: file.read_bytes() for file in sorted(tmp_path.glob("segment-*.keys"))}
        first, *others = before
        first.write_bytes(damage)
        for other in others:
            other.unlink()
        bus = LocalBus(tmp_path)
        assert all(receipt.repeated for receipt in bus.publish([decision(f"key-{n}") for n in range(2000)]))
        assert {file: file.read_bytes() for file in sorted(tmp_path.glob("segment-*.keys"))} == before
        bus.close()
