"""The local bus on a disk that is full, read-only, locked, or that changes under it, and killed at any moment.

Real ones: a tmpfs in a user namespace where the machine gives one, limits on file sizes everywhere, immutable files,
and processes that are killed. What was acknowledged must be readable afterwards, under its offset, once.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO

import pytest

from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.bus.mark import LOCK_FILE
from rl_core.errors import BusError
from tests.harness.patience import patient

REPOSITORY = Path(__file__).parents[2]

# Publishes until it is killed, or `count` times, and prints what was acknowledged: key, payload, offset.
PUBLISH = """
import sys
from pathlib import Path
from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.errors import BusError

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
bus = LocalBus(path, busy_timeout_s=60)
for i in range(count):
    messages = [Message("decisions", f"{name}-{i}-{n}", f"{name} {i} {n} ".encode() * 20) for n in range(1 + i % 4)]
    receipts = bus.publish(messages)
    for message, receipt in zip(messages, receipts, strict=True):
        print(message.key, receipt.offset, flush=True)
"""

# Fills what there is, is refused, is given room, and goes on: the same process, the same bus.
FULL = """
import json, os, resource, sys
from pathlib import Path
from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.errors import BusError

folder, how = Path(sys.argv[1]), sys.argv[2]
ballast = folder / "ballast"
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

def take_room():
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # of each file: a frame is larger
    else:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

def give_room():
    if how == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    else:
        ballast.unlink()

bus = LocalBus(folder / "bus")
acknowledged, refused, errors = {}, [], set()

def publish(key, payload):
    try:
        (receipt,) = bus.publish([Message("decisions", key, payload)])
        acknowledged[key] = [receipt.offset, receipt.payload[:20].decode()]
        return True
    except BusError as error:
        errors.add(str(error))
        refused.append(key)
        return False

for round_ in range(3):
    for n in range(20):
        assert publish(f"before-{round_}-{n}", b"before")
    take_room()
    n = 0
    while len(refused) < 5 * (round_ + 1):
        publish(f"during-{round_}-{n}", f"first {n} ".encode() * 3000)
        n += 1
    give_room()
    assert all(publish(key, b"second") for key in refused[-5:])
stored = {d.key: [d.offset, d.payload[:20].decode()] for d in bus.read("decisions", 0, 1_000_000)}
offsets = [d.offset for d in bus.read("decisions", 0, 1_000_000)]
bus.close()
again = LocalBus(folder / "bus")
same = stored == {d.key: [d.offset, d.payload[:20].decode()] for d in again.read("decisions", 0, 1_000_000)}
again.close()
print(json.dumps({"acknowledged": acknowledged, "stored": stored, "offsets": offsets, "same": same,
                  "errors": sorted(errors)}))
"""


def python(
    script: str, *arguments: object, before: tuple[str, ...] = (), stdout: int | IO[str] = subprocess.PIPE
) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=stdout, stderr=subprocess.PIPE, text=True)


def acknowledged_in(printed: str) -> dict[int, str]:
    """Keys by offset; the last line may have been cut off by the kill."""
    lines = [line.split() for line in printed.splitlines(keepends=True) if line.endswith("\n")]
    return {int(offset): key for key, offset in lines}


def named_in(log: str) -> Iterator[int]:
    """Offsets of decisions that a log says are lost."""
    for spans in re.findall(r"\d+ decisions of bus-\S+ are lost, offsets ([\d., ]+), unless", log):
        for low, high in re.findall(r"(\d+)\.\.(\d+)", spans):
            yield from range(int(low), int(high) + 1)


def check(path: Path, acknowledged: dict[int, str], lost: Collection[int] = ()) -> None:
    bus = LocalBus(path)
    try:
        deliveries = bus.read("decisions", 0, 10_000_000)
    finally:
        bus.close()
    assert [d.offset for d in deliveries] == list(range(1, len(deliveries) + 1))
    assert {d.offset for d in deliveries if not d.key} == set(lost)
    deliveries = [d for d in deliveries if d.key]
    assert len({d.key for d in deliveries}) == len(deliveries)
    found = {d.offset: d.key for d in deliveries}
    assert {offset: found.get(offset) for offset in acknowledged} == acknowledged
    for d in deliveries:
        assert d.payload == f"{d.key.replace('-', ' ')} ".encode() * 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus"


class TestAFullDisk:
    @pytest.mark.parametrize("how", ["limit", "tmpfs"])
    def test_refuses_loudly_and_goes_on_when_there_is_room(self, tmp_path: Path, how: str) -> None:
        before: tuple[str, ...] = ()
        if how == "tmpfs":
            mount = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
            room = f'mount -t tmpfs -o size=3m none {tmp_path} && exec "$@"'
            if shutil.which("unshare") is None or subprocess.run([*mount, room, "-", "true"], check=False).returncode:
                pytest.skip("no tmpfs of one's own: the machine gives no user namespaces")
            before = (*mount, room, "-")
        stdout, stderr = python(FULL, tmp_path, how, before=before).communicate(timeout=patient(60))
        assert stderr == ""
        told = json.loads(stdout)
        assert told["errors"]
        assert all("free" in error or "limit" in error for error in told["errors"]), told["errors"]
        assert {key: told["stored"].get(key) for key in told["acknowledged"]} == told["acknowledged"]
        assert told["offsets"] == list(range(1, len(told["offsets"]) + 1))
        assert len(told["stored"]) == len(told["offsets"])
        assert told["same"]


class TestAReadOnlyDisk:
    def test_refuses_loudly_and_goes_on_when_it_is_writable(self, path: Path) -> None:
        bus = LocalBus(path, busy_timeout_s=0.2)
        bus.publish([Message("decisions", "a", b"a")])
        files = [str(path), *map(str, path.iterdir())]
        try:
            made = shutil.which("chattr") and subprocess.run(["chattr", "+i", *files], capture_output=True).returncode
            if made != 0:
                pytest.skip("no immutable files here: chattr needs root and a file system that has them")
            with pytest.raises(BusError, match=r"it can't be written; look at its owner and attributes"):
                bus.publish([Message("decisions", "b", b"b")])
            assert bus.lookup("a") == b"a"
        finally:
            subprocess.run(["chattr", "-i", *files], capture_output=True, check=False)
        assert bus.publish([Message("decisions", "b", b"again")])[0].offset == 2
        assert bus.lookup("b") == b"again"
        bus.close()

    def test_is_named_where_the_bus_can_not_even_be_opened(self, tmp_path: Path) -> None:
        (tmp_path / "bus").write_text("a file, where the folder should be")
        with pytest.raises(BusError, match=r"/bus: "):
            LocalBus(tmp_path / "bus")


class TestAProcessThatStands:
    def test_still_with_the_lock_is_waited_for_and_then_named(self, path: Path) -> None:
        script = """
            import sys, time
            from pathlib import Path
            from rl_core.files import PatientLock
            with PatientLock(Path(sys.argv[1]), 5):
                print("held", flush=True)
                time.sleep(60)
        """
        bus = LocalBus(path, busy_timeout_s=0.1)
        assert bus.publish([Message("decisions", "before", b"")])[0].offset == 1
        holder = python("\n".join(line[12:] for line in script.splitlines()), path / LOCK_FILE)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusError, match=r"another process kept it locked for more than 0\.1 s; try again"):
            bus.publish([Message("decisions", "a", b"a")])
        assert [d.key for d in bus.read("decisions", 0)] == ["before"], "who reads waits for nobody"
        assert bus.lookup("before") == b""
        holder.kill()
        holder.communicate()
        assert bus.publish([Message("decisions", "a", b"a")])[0].offset == 2
        bus.close()


class TestKilled:
    @pytest.mark.long
    def test_at_any_moment_loses_nothing_that_was_acknowledged(self, path: Path, tmp_path: Path) -> None:
        rng, acknowledged = random.Random(11), dict[int, str]()
        for round_ in range(6):
            printed = tmp_path / f"printed-in-round-{round_}"
            with printed.open("w") as file, python(PUBLISH, path, round_, 1_000_000, stdout=file) as program:
                while not printed.stat().st_size:
                    assert program.poll() is None
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.15))
                program.kill()
            acknowledged |= acknowledged_in(printed.read_text())
        assert len(acknowledged) >= 6
        check(path, acknowledged)

    @pytest.mark.parametrize("when", ["before the frame", "before its sync", "before the mark", "behind the mark"])
    def test_within_one_publish(self, path: Path, when: str) -> None:
        script = """
            import os, signal, sys
            from pathlib import Path
            from rl_core.backends.contracts.bus import Message
            from rl_core.backends.local.bus.bus import LocalBus
            from rl_core.backends.local.bus.mark import MarkedLock
            from rl_core.backends.local.bus.segments import Segments

            def die(*_, **__):
                os.kill(os.getpid(), signal.SIGKILL)

            bus = LocalBus(Path(sys.argv[1]))
            bus.publish([Message("decisions", "a-0-0", b"a 0 0 " * 20)])
            set_mark = MarkedLock.set_mark

            def set_mark_then_die(*arguments):
                set_mark(*arguments)
                die()

            if sys.argv[2] == "before the frame":
                Segments.append = die
            elif sys.argv[2] == "before its sync":
                os.fdatasync = die
            elif sys.argv[2] == "before the mark":
                MarkedLock.set_mark = die
            else:
                MarkedLock.set_mark = set_mark_then_die
            bus.publish([Message("decisions", f"a-1-{n}", f"a 1 {n} ".encode() * 20) for n in range(3)])
        """
        program = python("\n".join(line[12:] for line in script.splitlines()), path, when)
        assert program.communicate(timeout=patient(30))[1] == ""
        assert program.returncode == -signal.SIGKILL
        bus = LocalBus(path)
        (first, second) = bus.publish(
            [Message("decisions", "a-0-0", b"a 0 0 " * 20), Message("decisions", "a-1-0", b"a 1 0 " * 20)]
        )
        assert (first.repeated, first.offset, second.offset) == (True, 1, 2)
        bus.close()
        check(path, {1: "a-0-0", 2: "a-1-0"})


class TestDamagedWhileItIsWrittenTo:
    @pytest.fixture
    def publishers(self, path: Path, tmp_path: Path) -> Iterator[dict[Path, subprocess.Popen[str]]]:
        """By the file that each prints into: a pipe that nobody reads would hold it up."""
        LocalBus(path).close()
        programs = {}
        for name in "ab":
            with (printed := tmp_path / f"printed-by-{name}").open("w") as file:
                programs[printed] = python(PUBLISH, path, name, 1_000_000, stdout=file)
        yield programs
        for program in programs.values():
            with program:
                program.kill()

    @pytest.mark.parametrize("seed", range(3))
    def test_loses_what_was_hit_and_says_so_and_nothing_else(
        self,
        path: Path,
        publishers: dict[Path, subprocess.Popen[str]],
        seed: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        rng = random.Random(seed)
        reader = LocalBus(path, busy_timeout_s=60)
        heads = [reader.head("decisions")]
        for _ in range(12):
            deadline = time.monotonic() + 30
            while reader.head("decisions") < heads[-1] + 40:
                assert [program.poll() for program in publishers.values()] == [None, None]
                assert time.monotonic() < deadline, "nothing is published any more"
                reader.read("decisions", heads[-1])
            heads.append(reader.head("decisions"))
            target = rng.choice([path / LOCK_FILE, *path.glob("segment-*.log"), *path.glob("segment-*.keys")])
            with target.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                for _ in range(rng.randint(1, 3)):
                    file.seek(rng.randrange(max(size, 1)))
                    file.write(rng.randbytes(rng.choice([10, 300, 4096])))
        acknowledged: dict[int, str] = {}
        told = ""  # whichever process meets damage names it: a publisher does whose look-up comes upon it first
        for printed, program in publishers.items():
            program.kill()
            _, stderr = program.communicate()
            assert "Traceback" not in stderr, stderr
            told += stderr
            acknowledged |= acknowledged_in(printed.read_text())
        deliveries = reader.read("decisions", 0, 10_000_000)
        reader.close()
        lost = {d.offset for d in deliveries if not d.key}
        assert lost <= set(named_in(told + caplog.text))
        assert len(acknowledged) >= 400
        assert len(acknowledged.keys() - lost) >= 200
        check(path, {offset: key for offset, key in acknowledged.items() if offset not in lost}, lost)
