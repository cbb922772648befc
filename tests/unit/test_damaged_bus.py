"""A bus whose files are damaged: what the checksums vouch for is delivered, the rest is named, and serving goes on."""

from __future__ import annotations

import logging
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from rl_core.backends.contracts.bus import Delivery, Message, Topic
from rl_core.backends.local.bus import mending
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.bus.mark import LOCK_FILE
from rl_core.errors import BusError

TOPICS: tuple[Topic, ...] = ("decisions", "rewards")
NOTHING = timedelta(0)
Damage = Callable[[Path], None]
Content = dict[Topic, list[Delivery]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus"


@pytest.fixture
def bus(path: Path) -> Iterator[LocalBus]:
    bus = LocalBus(path)
    yield bus
    bus.close()


def fill(bus: LocalBus, count: int, begin: int = 0, rng: random.Random | None = None) -> None:
    """Decisions and rewards in groups of different sizes."""
    rng = rng or random.Random(count)
    numbers = list(range(begin, begin + count))
    while numbers:
        part, numbers = numbers[: (size := rng.randint(1, 20))], numbers[size:]
        bus.publish([Message("decisions", f"key-{n}", f"decision {n} ".encode() * rng.randint(1, 60)) for n in part])
        bus.publish([Message("rewards", f"key-{n}", f"reward {n}".encode()) for n in part])


@dataclass(frozen=True)
class Filled:
    """A bus of 1,200 decisions and rewards that nobody has open, and what is in it."""

    path: Path
    content: Content
    producer: str


@pytest.fixture(scope="module")
def filled_once(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    path = tmp_path_factory.mktemp("filled") / "bus"
    bus = LocalBus(path)
    fill(bus, 1200)
    found, producer = content(bus), bus.producer
    bus.close()
    return Filled(path, found, producer)


@pytest.fixture
def filled(filled_once: Filled, path: Path) -> Filled:
    """A copy for the test, at `path`: two hundred synced writes would take longer than all that follows."""
    shutil.copytree(filled_once.path, path)
    return replace(filled_once, path=path)


def content(bus: LocalBus) -> Content:
    return {topic: bus.read(topic, 0, 1_000_000) for topic in TOPICS}


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("segment-*.log"))


def set_aside(path: Path) -> list[Path]:
    return sorted(file for folder in path.glob("damaged-*") for file in folder.iterdir())


def overwrite(path: Path, rng: random.Random, stretches: int = 3, most: int = 5000) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(stretches):
            file.seek(rng.randrange(size))
            file.write(rng.randbytes(rng.randint(1, most)))


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    overwrite(path, random.Random(1), stretches=8)


def behead(path: Path) -> None:
    overwrite(path, random.Random(1), stretches=0)
    with path.open("r+b") as file:
        file.write(b"-" * 100)


DAMAGES = [delete, empty, halve, scribble, behead]


def named(log: str) -> dict[Topic, set[int]]:
    """The offsets that the log says are lost."""
    found: dict[Topic, set[int]] = {topic: set() for topic in TOPICS}
    for topic, spans in re.findall(r"\d+ (decisions|rewards) of bus-\S+ are lost, offsets ([\d., ]+), unless", log):
        for low, high in re.findall(r"(\d+)\.\.(\d+)", spans):
            found[topic] |= set(range(int(low), int(high) + 1))
    return found


def check(after: Content, before: Content, log: str) -> dict[Topic, set[int]]:
    """All of before is there but for what is empty, which is what the log names. Returns that."""
    empty = {topic: {d.offset for d in its if not d.key} for topic, its in after.items()}
    assert named(log) == empty
    for topic, its in after.items():
        assert [d.offset for d in its] == list(range(its[0].offset, its[0].offset + len(its)))
        told = {d.offset: d for d in its}
        assert [told[d.offset] for d in before[topic] if d.offset not in empty[topic]] == [
            d for d in before[topic] if d.offset not in empty[topic]
        ]
        assert all(told[offset].payload == b"" for offset in empty[topic])
    return empty


class TestASegment:
    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
    def test_damaged_while_nobody_has_it_open_loses_what_was_hit_and_nothing_else(
        self, path: Path, filled: Filled, damage: Damage, which: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        damage(segments(path)[which])
        again = LocalBus(path)
        after = content(again)
        lost = check(after, filled.content, caplog.text)
        assert 0 < len(lost["decisions"]) < 1200 or damage is behead
        assert (again.producer, again.head("decisions"), again.head("rewards")) == (filled.producer, 1200, 1200)
        assert len(set_aside(path)) == (damage is not delete)
        assert again.publish([Message("decisions", "new", b"")])[0].offset == 1201
        caplog.clear()
        third = LocalBus(path)
        assert {topic: its[:1200] for topic, its in content(third).items()} == after, "it is whole from now on"
        assert caplog.text == ""
        for one in (again, third):
            one.close()

    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
    def test_damaged_in_use_holds_up_neither_who_publishes_nor_who_reads(
        self, path: Path, bus: LocalBus, damage: Damage, which: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        reader = LocalBus(path)
        fill(bus, 1200)
        before = content(bus)
        damage(segments(path)[which])
        fill(bus, 400, begin=1200)
        after = content(reader)
        check(after, before, caplog.text)
        assert [d.key for d in after["decisions"][1200:]] == [f"key-{n}" for n in range(1200, 1600)]
        assert content(bus) == after
        reader.close()

    def test_that_is_deleted_while_it_is_written_to_is_written_again(
        self, path: Path, bus: LocalBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        fill(bus, 100)
        before = content(bus)
        segments(path)[-1].unlink()
        fill(bus, 10, begin=100)
        assert {topic: its[:100] for topic, its in content(bus).items()} == before
        assert "was deleted while it is in use, and is written again" in caplog.text

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damaged_under_the_answer_that_a_repeated_key_asks_for_makes_it_a_new_one(
        self, path: Path, filled: Filled, damage: Damage
    ) -> None:
        damage(segments(path)[1])
        again = LocalBus(path)
        kept = {d.key: d for d in again.read("decisions", 0) if d.key}
        receipts = again.publish([Message("decisions", f"key-{n}", b"anew") for n in range(1200)])
        for n, receipt in enumerate(receipts):
            first = kept.get(f"key-{n}")
            assert (receipt.repeated, receipt.payload) == ((True, first.payload) if first else (False, b"anew"))
        again.close()

    def test_of_another_bus_is_not_mixed_with_ours(
        self, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for folder in (path, tmp_path / "other"):
            bus = LocalBus(folder)
            fill(bus, 50)
            bus.close()
        bus = LocalBus(path)
        before = content(bus)
        bus.close()
        segments(path)[0].write_bytes(segments(tmp_path / "other")[0].read_bytes())
        again = LocalBus(path)
        assert len(check(content(again), before, caplog.text)["decisions"]) == 50
        again.close()

    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
    @pytest.mark.parametrize("kept", [True, False], ids=["with its keys", "and so are its keys"])
    def test_damaged_while_nobody_reads_is_named_by_who_asks_for_a_key_again(
        self, path: Path, filled: Filled, damage: Damage, which: int, kept: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = filled.content
        damage(segments(path)[which])
        for file in path.glob("*.keys"):
            if not kept:
                file.unlink()
        again = LocalBus(path)
        receipts = again.publish([Message("decisions", f"key-{n}", b"anew") for n in range(1200)])
        anew = {n + 1 for n, receipt in enumerate(receipts) if not receipt.repeated}
        assert anew <= named(caplog.text)["decisions"], "who gets a second answer had the first one named as lost"
        assert all(r.payload == d.payload for r, d in zip(receipts, before["decisions"], strict=True) if r.repeated)
        check({topic: its[:1200] for topic, its in content(again).items()}, before, caplog.text)
        again.close()

    def test_is_named_before_it_is_mended_so_that_no_kill_in_between_hides_a_loss(
        self, path: Path, filled: Filled, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = filled.content
        scribble(segments(path)[0])

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(mending, "write_atomically", killed)
        again = LocalBus(path)
        with pytest.raises(KeyboardInterrupt):
            again.read("decisions", 0, 1_000_000)
        lost = named(caplog.text)
        assert lost["decisions"]
        monkeypatch.undo()
        assert check(content(again), before, caplog.text) == lost
        again.close()


class TestTheMark:
    @pytest.mark.parametrize("damage", [delete, empty, scribble])
    def test_damaged_is_set_again_from_the_journal(self, path: Path, damage: Damage) -> None:
        bus = LocalBus(path)
        fill(bus, 1200)
        bus.prune({"decisions": 400, "rewards": 400}, NOTHING)
        before, producer = content(bus), bus.producer
        bus.close()
        damage(path / LOCK_FILE)
        again = LocalBus(path)
        assert (content(again), again.producer) == (before, producer)
        again.close()

    @pytest.mark.parametrize("damage", [delete, empty, scribble])
    def test_damaged_in_use_is_set_again_by_who_meets_it(self, path: Path, bus: LocalBus, damage: Damage) -> None:
        reader = LocalBus(path)
        fill(bus, 20)
        damage(path / LOCK_FILE)
        assert len(content(reader)["decisions"]) == 20
        damage(path / LOCK_FILE)
        fill(bus, 20, begin=20)
        assert content(reader) == content(bus)
        assert len(content(bus)["rewards"]) == 40
        reader.close()

    def test_that_is_older_than_the_journal_as_after_a_power_cut_hides_nothing(self, path: Path) -> None:
        LocalBus(path).close()
        older = (path / LOCK_FILE).read_bytes()
        bus = LocalBus(path)
        fill(bus, 1200)
        before = content(bus)
        bus.close()
        (path / LOCK_FILE).write_bytes(older)
        again = LocalBus(path)
        assert content(again) == before
        assert again.publish([Message("decisions", "key-7", b"another")])[0].payload == before["decisions"][7].payload
        again.close()

    def test_and_every_segment_unreadable_begins_another_bus_and_says_so(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = LocalBus(path)
        fill(bus, 20)
        bus.close()
        for file in (*segments(path), path / LOCK_FILE):
            file.write_bytes(b"nothing of it" * 100)
        again = LocalBus(path)
        assert again.producer != bus.producer
        assert "nothing in it is readable; what it held is lost" in caplog.text
        fill(again, 5)
        assert len(content(again)["decisions"]) == 5
        again.close()


class TestForgotten:
    def test_is_in_no_file_any_more(self, path: Path, bus: LocalBus) -> None:
        fill(bus, 300)
        secret = Message("decisions", "secret-key", b"secret payload")
        bus.publish([secret, Message("rewards", "secret-key", b"secret")])
        fill(bus, 900, begin=300)
        bus.publish([Message("rewards", "secret-key", b"secret")])
        before = content(bus)
        assert sum(b"secret" in file.read_bytes() for file in path.iterdir()) >= 2
        assert bus.forget(["secret-key"]) == 3
        assert [file.name for file in path.iterdir() if b"secret" in file.read_bytes()] == []
        others = {topic: [d for d in its if d.key != "secret-key"] for topic, its in before.items()}
        assert {topic: [d for d in its if d.key] for topic, its in content(bus).items()} == others
        again = LocalBus(path)
        assert again.lookup("secret-key") is None
        fill(bus, 1500, begin=1200)  # the publisher, which knew the key, writes the keys of segments that are full now
        bus._keys.close()
        assert [file.name for file in path.iterdir() if b"secret" in file.read_bytes()] == []
        again.close()
        assert bus.publish([secret])[0].repeated is False
        assert all(receipt.repeated for receipt in bus.publish([Message("decisions", "key-299", b"")] * 2))

    def test_stays_forgotten_for_everybody(self, path: Path, bus: LocalBus) -> None:
        other = LocalBus(path)
        fill(bus, 100)
        assert bus.lookup("key-7") is not None
        other.forget(["key-7", "key-99"])
        assert bus.lookup("key-7") is None
        fill(bus, 50, begin=100)
        (path / LOCK_FILE).unlink()
        third = LocalBus(path)
        assert content(third) == content(bus) == content(other)
        assert third.lookup("key-99") is None
        assert third.publish([Message("decisions", "key-8", b"")])[0].repeated
        for one in (other, third):
            one.close()


class TestWhatIsStored:
    def test_goes_by_whole_segments(self, path: Path, bus: LocalBus) -> None:
        fill(bus, 1200)
        first, *_, last = segments(path)
        assert first != last
        assert bus.prune({"decisions": 1190, "rewards": 1190}, timedelta(hours=1)) == 0
        gone = bus.prune({"decisions": 1190, "rewards": 1190}, NOTHING)
        assert 0 < gone < 2380
        left = content(bus)
        assert sum(map(len, left.values())) == 2400 - gone
        assert left["decisions"][-1].offset == left["rewards"][-1].offset == 1200
        assert not first.exists()
        reader = LocalBus(path)
        assert content(reader) == left
        assert bus.prune({"decisions": 1200, "rewards": 1200}, NOTHING) == 2400 - gone
        assert content(reader) == content(bus) == {"decisions": [], "rewards": []}
        assert list(path.glob("*.keys")) == []
        reader.close()

    def test_of_an_idle_bus_does_not_grow(self, path: Path, bus: LocalBus) -> None:
        def written() -> int:
            return sum(len(file.read_bytes().rstrip(b"\0")) for file in segments(path))

        bus.watermark()
        before = written()
        for _ in range(20):
            bus.watermark()
            bus.prune({}, timedelta(hours=1))
        assert written() == before

    def test_that_another_process_pruned_is_decided_anew_and_is_no_damage(
        self, path: Path, bus: LocalBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        fill(bus, 1200)
        bus._keys.close()  # all but the last segment's keys are in arrays by now
        logger = LocalBus(path)
        assert logger.prune({"decisions": 1200, "rewards": 1200}, NOTHING) == 2400
        there = segments(path)
        assert not bus.publish([Message("decisions", "key-1", b"")])[0].repeated
        assert (segments(path), caplog.text) == (there, "")
        logger.close()

    def test_a_first_segment_that_was_deleted_was_not_pruned(
        self, path: Path, bus: LocalBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        fill(bus, 1200)
        before = content(bus)
        segments(path)[0].unlink()
        after = content(bus)
        assert len(check(after, before, caplog.text)["decisions"]) > 1


@pytest.mark.parametrize("seed", range(24))
def test_random_damage_is_named_and_takes_nothing_else(path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    bus = LocalBus(path)
    fill(bus, 300, rng=rng)
    before = content(bus)
    if not (in_use := rng.random() < 0.5):
        bus.close()
    most = rng.choice([1, 100, 5000, 50_000])
    overwrite(rng.choice([*segments(path), path / LOCK_FILE]), rng, stretches=rng.randint(1, 5), most=most)
    if not in_use:
        bus = LocalBus(path)
    fill(bus, 50, begin=300, rng=rng)
    after = content(bus)
    check(after, before, caplog.text)
    assert [d.offset for d in after["decisions"]] == list(range(1, len(after["decisions"]) + 1))
    assert [d.key for d in after["decisions"]][-50:] == [f"key-{n}" for n in range(300, 350)]
    bus.close()
    again = LocalBus(path)
    assert content(again) == after
    again.close()


def test_what_is_beyond_mending_is_an_error_for_a_person(path: Path, bus: LocalBus) -> None:
    fill(bus, 10)
    (path / LOCK_FILE).unlink()
    for file in segments(path):
        file.unlink()
    with pytest.raises(BusError, match="its files are gone while the bus is in use; start its processes again"):
        fill(bus, 1, begin=10)


def test_nothing_is_said_where_nothing_is_damaged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for begin in range(0, 1500, 500):
            bus = LocalBus(path)
            fill(bus, 500, begin=begin)
            content(bus)
            bus.close()
    assert caplog.text == ""
    assert set_aside(path) == []
