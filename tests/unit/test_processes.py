"""A process that ends while it is looked at is left out, and is no error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from local_stack.processes import command_line, identified, identity, living, living_with, send, with_descendants
from tests.harness.patience import patient


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"], env={"MARKED": f"by this test, {os.getpid()}"})
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def ended(sleeper: subprocess.Popen[bytes]) -> psutil.Process:
    """As it was found; gone since."""
    found = psutil.Process(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    return found


def until_it_runs(process: subprocess.Popen[bytes]) -> None:
    while not command_line(psutil.Process(process.pid)).startswith("sleep"):  # before exec it is a copy of this process
        time.sleep(0.01)


def test_is_found_by_its_environment_while_it_lives(sleeper: subprocess.Popen[bytes]) -> None:
    until_it_runs(sleeper)
    assert [found.pid for found in living_with("MARKED", f"by this test, {os.getpid()}")] == [sleeper.pid]
    assert living_with("MARKED", "by another") == []


def test_that_ends_between_the_look_and_the_question_is_left_out(sleeper: subprocess.Popen[bytes]) -> None:
    asked = []

    def ours(process: psutil.Process) -> bool:
        if process.pid != sleeper.pid:
            return False
        asked.append(process.pid)
        sleeper.kill()
        sleeper.wait()
        return bool(process.name())

    assert living(ours) == []
    assert asked == [sleeper.pid]


def test_that_nobody_has_buried_yet_does_not_live(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert living(lambda process: process.pid == sleeper.pid) == []


def test_that_has_ended_has_no_command_line_and_nobody_below_it(ended: psutil.Process) -> None:
    assert command_line(ended) == ""
    assert with_descendants(ended) == [ended]


class TestItsIdentity:
    def test_finds_it_again_from_a_file(self, sleeper: subprocess.Popen[bytes]) -> None:
        pid, born_s = json.loads(json.dumps(identity(sleeper.pid)))
        found = identified(pid, born_s)
        assert found is not None
        assert found.pid == sleeper.pid

    def test_is_not_that_of_a_stranger_with_the_same_id(self, sleeper: subprocess.Popen[bytes]) -> None:
        pid, born_s = identity(sleeper.pid)
        assert identified(pid, born_s + 0.01) is None

    def test_finds_nobody_once_it_has_ended(self, sleeper: subprocess.Popen[bytes]) -> None:
        recorded = identity(sleeper.pid)
        sleeper.kill()
        sleeper.wait()
        assert identified(*recorded) is None

    def test_stays_the_same_when_the_clock_is_set(
        self, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorded, later = identity(sleeper.pid), psutil.boot_time() + 3600
        for module in (psutil, psutil._pslinux):
            monkeypatch.setattr(module, "boot_time", lambda: later)
        assert psutil.Process(sleeper.pid).create_time() > time.time() + 3000, "the clock was set"
        assert identified(*recorded) is not None


def test_that_has_ended_does_not_keep_a_signal_from_the_next(ended: psutil.Process) -> None:
    with subprocess.Popen(["sleep", "300"]) as other:
        send(signal.SIGTERM, [ended, psutil.Process(other.pid)])
        assert other.wait(patient(30)) == -signal.SIGTERM


def test_comes_after_those_below_it() -> None:
    program = "import subprocess; subprocess.run(['sleep', '300'])"
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        process = psutil.Process(parent.pid)
        while len(found := with_descendants(process)) < 2:
            time.sleep(0.01)
        assert found[-1] == process
        send(signal.SIGKILL, found)
