"""A bus whose file or journal is damaged: whoever meets it mends it, and nothing acknowledged is lost."""

from __future__ import annotations

import logging
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rl_core.backends.contracts.bus import Delivery, Message, Topic
from rl_core.backends.local.journal import Journal
from rl_core.backends.local.journal_group import State
from rl_core.backends.local.message_bus import SqliteBus
from rl_core.clock import SteadyClock
from rl_core.errors import BusError

TOPICS: tuple[Topic, ...] = ("decisions", "rewards")
PAGE = 4096
EVER = datetime(9999, 1, 1, tzinfo=UTC)
Damage = Callable[[Path], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus" / "bus.sqlite"


@pytest.fixture
def bus(path: Path) -> Iterator[SqliteBus]:
    bus = SqliteBus(path)
    yield bus
    bus.close()


def fill(bus: SqliteBus, count: int, begin: int = 0, rng: random.Random | None = None) -> None:
    """Decisions and rewards in groups of different sizes."""
    rng = rng or random.Random(count)
    numbers = list(range(begin, begin + count))
    while numbers:
        part, numbers = numbers[: (size := rng.randint(1, 20))], numbers[size:]
        bus.publish([Message("decisions", f"key-{n}", f"decision {n} ".encode() * rng.randint(1, 60)) for n in part])
        bus.publish([Message("rewards", f"key-{n}", f"reward {n}".encode()) for n in part])


def content(bus: SqliteBus) -> dict[Topic, list[Delivery]]:
    return {topic: bus.read(topic, 0, 1_000_000) for topic in TOPICS}


def journal_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob("journal-*.log"))


def set_aside(path: Path) -> list[str]:
    return sorted(file.name for folder in path.parent.glob("damaged-*") for file in folder.iterdir())


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


def another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()


DAMAGES = [delete, empty, halve, scribble]


class TestTheFile:
    @pytest.mark.parametrize("damage", [*DAMAGES, another_program])
    def test_damaged_while_nobody_has_it_open_is_built_anew(
        self, path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = SqliteBus(path)
        fill(bus, 400)
        before, producer = content(bus), bus.producer
        bus.close()
        damage(path)
        again = SqliteBus(path)
        assert content(again) == before
        assert again.producer == producer
        (receipt,) = again.publish([Message("decisions", "key-7", b"another")])
        assert (receipt.repeated, receipt.payload) == (True, before["decisions"][7].payload)
        assert again.publish([Message("decisions", "new", b"")])[0].offset == 401
        assert "built anew with 400 decisions and 400 rewards" in caplog.text
        ours = [record for record in caplog.records if record.name.startswith("rl_core")]
        assert all(record.levelno < logging.ERROR for record in ours)
        again.close()

    @pytest.mark.parametrize("damage", [*DAMAGES, another_program])
    def test_damaged_in_use_is_built_anew_by_who_publishes(self, path: Path, bus: SqliteBus, damage: Damage) -> None:
        fill(bus, 400)
        before = content(bus)
        damage(path)
        fill(bus, 400, begin=400)
        fill(bus, 400, begin=800)
        assert {topic: content(bus)[topic][:400] for topic in TOPICS} == before
        assert [d.offset for d in content(bus)["decisions"]] == list(range(1, 1201))
        again = SqliteBus(path)
        assert content(again) == content(bus)
        again.close()

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damaged_in_use_is_built_anew_by_who_reads(self, path: Path, bus: SqliteBus, damage: Damage) -> None:
        reader = SqliteBus(path)
        fill(bus, 400)
        before = content(bus)
        damage(path)
        reader.watermark()
        assert content(reader) == before
        fill(bus, 10, begin=400)
        assert len(content(reader)["rewards"]) == len(content(bus)["rewards"]) == 410
        reader.close()

    def test_is_kept_for_a_person_to_look_at(self, path: Path) -> None:
        SqliteBus(path).close()
        path.write_bytes(b"no database at all" * 100)
        SqliteBus(path).close()
        (folder,) = path.parent.glob("damaged-*")
        assert (folder / "bus.sqlite").read_bytes() == b"no database at all" * 100

    def test_an_older_copy_is_brought_up_to_date(self, path: Path) -> None:
        SqliteBus(path).close()
        older = path.read_bytes()
        bus = SqliteBus(path)
        fill(bus, 50)
        before = content(bus)
        bus.close()
        path.write_bytes(older)
        again = SqliteBus(path)
        assert content(again) == before
        again.close()

    def test_a_payload_that_changed_on_disk_is_not_delivered(self, path: Path) -> None:
        bus = SqliteBus(path)
        bus.publish([Message("decisions", "a", b"the payload that was published")])
        bus.close()
        path.write_bytes(path.read_bytes().replace(b"payload that was", b"payload that is"))
        path.write_bytes(path.read_bytes().replace(b"the payload", b"THE PAYLOAD"))
        again = SqliteBus(path)
        assert again.lookup("decisions", "a") == b"the payload that was published"
        again.close()


class TestTheWriteAheadLog:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damaged_after_a_crash_takes_no_acknowledged_message_along(
        self, path: Path, tmp_path: Path, damage: Damage
    ) -> None:
        bus = SqliteBus(path)
        fill(bus, 100)
        crashed = tmp_path / "crashed" / "bus.sqlite"
        crashed.parent.mkdir()
        for file in path.parent.iterdir():  # what a crash leaves: the write-ahead log is not in the file yet
            (crashed.parent / file.name).write_bytes(file.read_bytes())
        damage(crashed.with_name("bus.sqlite-wal"))
        crashed.with_name("bus.sqlite-shm").unlink()
        again = SqliteBus(crashed)
        assert content(again) == content(bus)
        again.close()
        bus.close()


class TestTheJournal:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damaged_is_written_anew_from_the_file(
        self, path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
    ) -> None:
        bus = SqliteBus(path)
        fill(bus, 1200)
        before = content(bus)
        bus.close()
        damage(max(journal_of(path)[:-1], key=lambda file: file.stat().st_size))
        SqliteBus(path).close()
        assert "the journal was written anew" in caplog.text
        path.unlink()
        again = SqliteBus(path)
        assert content(again) == before
        again.close()

    @pytest.mark.parametrize("damage", [delete, empty, halve])
    def test_damaged_in_use_is_written_anew(self, path: Path, bus: SqliteBus, damage: Damage) -> None:
        fill(bus, 100)
        damage(journal_of(path)[-1])
        fill(bus, 100, begin=100)
        path.unlink()
        fill(bus, 100, begin=200)
        assert [d.offset for d in content(bus)["decisions"]] == list(range(1, 301))

    def test_of_a_bus_from_before_it_is_made_from_the_file(self, path: Path) -> None:
        path.parent.mkdir()
        with sqlite3.connect(path) as db:
            db.executescript(
                """
                PRAGMA journal_mode = WAL;
                CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
                CREATE TABLE decisions ("offset" INTEGER PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL,
                    received_at INTEGER);
                CREATE TABLE rewards ("offset" INTEGER PRIMARY KEY, key TEXT NOT NULL, payload BLOB NOT NULL,
                    received_at INTEGER);
                CREATE UNIQUE INDEX decisions_key ON decisions (key);
                CREATE INDEX rewards_key ON rewards (key);
                INSERT INTO meta VALUES ('producer', 'bus-old'), ('last_stamp', 5000000), ('decisions_head', 4),
                    ('rewards_head', 0);
                INSERT INTO decisions VALUES (3, 'c', x'63', 4000000), (4, 'd', x'64', 5000000);
                PRAGMA application_id = 1112886352;
                """
            )
        db.close()
        bus = SqliteBus(path)
        assert bus.producer == "bus-old"
        assert [(d.offset, d.key, d.payload, d.received_at.timestamp()) for d in bus.read("decisions", 0)] == [
            (3, "c", b"c", 4.0),
            (4, "d", b"d", 5.0),
        ]
        receipts = bus.publish([Message("decisions", "c", b"again"), Message("decisions", "e", b"e")])
        assert [(r.offset, r.repeated, r.payload) for r in receipts] == [(3, True, b"c"), (5, False, b"e")]
        before = content(bus)
        bus.close()
        path.unlink()
        again = SqliteBus(path)
        assert content(again) == before
        again.close()

    def test_drops_what_was_pruned(self, path: Path, bus: SqliteBus) -> None:
        fill(bus, 1500)
        segments = journal_of(path)
        assert len(segments) > 2
        for topic in TOPICS:
            bus.prune(topic, 1490, EVER)
        assert len(journal_of(path)) == 1
        fill(bus, 10, begin=1500)
        before = content(bus)
        assert [d.offset for d in before["rewards"]] == list(range(1491, 1511))
        path.unlink()
        assert content(bus) == before

    def test_of_an_idle_bus_does_not_grow(self, path: Path, bus: SqliteBus) -> None:
        def written() -> int:
            return sum(len(file.read_bytes().rstrip(b"\0")) for file in journal_of(path))

        bus.watermark()
        before = written()
        for _ in range(20):
            bus.watermark()
        assert written() == before


class TestBoth:
    def test_damaged_in_different_places_lose_nothing(self, path: Path) -> None:
        bus = SqliteBus(path)
        for n in range(10):
            bus.publish([Message("decisions", f"key-{n}", b"-" * 500 + b"%d" % n)])
        before = content(bus)
        bus.close()
        path.write_bytes(path.read_bytes().replace(b"-" * 500 + b"4", b"!" * 501))
        for file in journal_of(path):
            file.write_bytes(file.read_bytes().replace(b"-" * 500 + b"7", b"!" * 501))
        again = SqliteBus(path)
        assert content(again) == before
        again.close()
        path.unlink()
        again = SqliteBus(path)
        assert content(again) == before
        again.close()

    def test_that_lost_the_same_is_said(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        bus = SqliteBus(path)
        for n in range(10):
            bus.publish([Message("decisions", f"key-{n}", b"-" * 500 + b"%d" % n)])
        bus.close()
        for file in (path, *journal_of(path)):
            file.write_bytes(file.read_bytes().replace(b"-" * 500 + b"4", b"!" * 501))
        again = SqliteBus(path)
        assert [d.offset for d in again.read("decisions", 0)] == list(range(1, 11))
        assert [d.offset for d in again.read("decisions", 0) if not d.key] == [5]
        assert "1 decisions are in neither copy, from offset 5 to 5" in caplog.text
        assert again.publish([Message("decisions", "new", b"")])[0].offset == 11
        again.close()
        path.unlink()
        again = SqliteBus(path)
        assert [d.offset for d in again.read("decisions", 0) if d.key] == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
        again.close()

    def test_gone_while_in_use_is_an_error_for_a_person(self, path: Path, bus: SqliteBus) -> None:
        fill(bus, 10)
        for file in (path, *journal_of(path)):
            file.unlink()
        with pytest.raises(BusError, match="file and journal are gone while the bus is in use"):
            fill(bus, 1, begin=10)

    def test_of_two_buses_are_not_mixed(self, path: Path, tmp_path: Path) -> None:
        SqliteBus(path).close()
        other = tmp_path / "other" / "bus.sqlite"
        SqliteBus(other).close()
        path.write_bytes(other.read_bytes())
        with pytest.raises(BusError, match="a folder holds one bus"):
            SqliteBus(path)


class TestARestartOfTheMachine:
    """SQLite syncs nothing: after a power cut any page of the file may be old, and any new."""

    @pytest.mark.parametrize("seed", range(8))
    def test_takes_nothing_whichever_pages_reached_the_disk(self, path: Path, seed: int) -> None:
        with started(path, "first") as bus:
            fill(bus, 200)
        earlier = path.read_bytes()
        with started(path, "first") as bus:
            fill(bus, 200, begin=200)
            before = content(bus)
        later, rng = path.read_bytes(), random.Random(seed)
        pages = [(earlier if rng.random() < 0.1 else later)[at : at + PAGE] for at in range(0, len(earlier), PAGE)]
        path.write_bytes(b"".join(pages) + later[len(earlier) :])
        with started(path, "second") as bus:
            assert content(bus) == before
            receipts = bus.publish([Message("decisions", f"key-{n}", b"another answer") for n in range(400)])
            assert all(receipt.repeated for receipt in receipts), "the first answers stand"

    def test_builds_the_file_once_and_leaves_nothing_for_a_person(self, path: Path) -> None:
        with started(path, "first") as bus:
            fill(bus, 20)
            before = content(bus)
        with started(path, "second") as bus:
            assert content(bus) == before
        built = path.stat().st_ino
        with started(path, "second") as bus:
            assert content(bus) == before
        assert path.stat().st_ino == built
        assert set_aside(path) == []

    def test_before_anything_was_published_is_none(self, path: Path) -> None:
        with started(path, "first"):
            pass
        with started(path, "second") as bus, started(path, "second") as other:
            fill(bus, 5)
            assert content(other) == content(bus)


@contextmanager
def started(path: Path, boot: str) -> Iterator[SqliteBus]:
    """The bus on a machine whose present start is called so."""
    bus = SqliteBus(path, clock=SteadyClock(boot=lambda: boot))
    try:
        yield bus
    finally:
        bus.close()


class TestForgotten:
    def test_is_in_no_file_any_more(self, path: Path, bus: SqliteBus) -> None:
        fill(bus, 300)
        bus.publish(
            [Message("decisions", "secret-key", b"secret payload"), Message("rewards", "secret-key", b"secret")]
        )
        fill(bus, 300, begin=300)
        SqliteBus(path).close()
        assert sum(b"secret" in file.read_bytes() for file in path.parent.iterdir()) >= 2
        assert bus.forget(["secret-key"]) == 2
        assert [file.name for file in path.parent.iterdir() if b"secret" in file.read_bytes()] == []

    @pytest.mark.parametrize("lost", ["file", "journal"])
    def test_stays_forgotten_when_a_copy_is_built_from_the_other(self, path: Path, bus: SqliteBus, lost: str) -> None:
        other = SqliteBus(path)
        fill(bus, 100)
        other.forget(["key-7", "key-99"])
        fill(bus, 50, begin=100)
        before = content(bus)
        for file in [path] if lost == "file" else journal_of(path):
            file.unlink()
        fill(other, 50, begin=150)
        assert {topic: deliveries[:150] for topic, deliveries in content(bus).items()} == before
        assert bus.lookup("decisions", "key-7") is None
        assert bus.publish([Message("decisions", "key-8", b"")])[0].repeated
        other.close()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("copy", ["file", "journal"])
def test_random_damage_to_one_copy_loses_nothing(path: Path, seed: int, copy: str) -> None:
    rng = random.Random(seed)
    bus = SqliteBus(path)
    fill(bus, 300, rng=rng)
    before = content(bus)
    in_use = rng.random() < 0.5
    if not in_use:
        bus.close()
    damaged = rng.choice(journal_of(path)) if copy == "journal" else path
    if copy == "file" and in_use and rng.random() < 0.5:
        damaged = path.with_name("bus.sqlite-wal")
    overwrite(damaged, rng, stretches=rng.randint(1, 5), most=rng.choice([1, 100, 5000, 50_000]))
    if not in_use:
        bus = SqliteBus(path)
    fill(bus, 50, begin=300, rng=rng)
    assert {topic: deliveries[:300] for topic, deliveries in content(bus).items()} == before
    assert [d.offset for d in content(bus)["decisions"]] == list(range(1, 351))
    bus.close()
    again = SqliteBus(path)
    assert len(content(again)["rewards"]) == 350
    again.close()


def test_a_bus_that_is_opened_looks_through_its_journal_while_others_publish(
    path: Path, bus: SqliteBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(bus, 20)
    audit = Journal.audit

    def slow(journal: Journal, state: State, most_bytes: int) -> None:
        fill(bus, 5, begin=len(content(bus)["decisions"]))
        audit(journal, state, most_bytes)

    monkeypatch.setattr(Journal, "audit", slow)
    SqliteBus(path, busy_timeout_s=0.5).close()
    assert len(content(bus)["decisions"]) == 25
    assert not set_aside(path)
