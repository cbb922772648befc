"""The bus killed before any step that it takes on the disk: the next one opens it, has what was there, and goes on."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rl_core.backends.contracts.bus import Message
from rl_core.backends.local.bus.bus import LocalBus
from rl_core.backends.local.bus.mark import LOCK_FILE
from rl_core.clock import SteadyClock, elapsed_ns

STEPS = ("fsync", "fdatasync", "ftruncate", "posix_fallocate", "replace", "unlink", "pwrite", "mkdir", "link")
KILLED = 9


def made(begin: int, end: int) -> list[Message]:
    return [Message("decisions", f"key-{n}", f"decision {n} ".encode() * 20) for n in range(begin, end)]


def start(path: Path) -> None:
    LocalBus(path).close()


def publish(path: Path) -> None:
    bus = LocalBus(path)
    for begin in range(30, 1500, 490):  # into the next segments
        bus.publish(made(begin, begin + 490))
    bus.close()


def watermark(path: Path) -> None:
    bus = LocalBus(path, clock=SteadyClock(elapsed=lambda: elapsed_ns() + 1_000_000_000))
    bus.watermark()
    bus.close()


def forget(path: Path) -> None:
    bus = LocalBus(path)
    bus.forget(["key-3", "key-29"])
    bus.close()


def prune(path: Path) -> None:
    bus = LocalBus(path)
    bus.prune({"decisions": 30}, timedelta(0))
    bus.close()


def mend(path: Path) -> None:
    """Ten of its messages are damaged."""
    (file,) = path.glob("segment-*.log")
    file.write_bytes(file.read_bytes().replace(b"decision 7 ", b"decision x "))
    bus = LocalBus(path)
    bus.read("decisions", 0)
    bus.close()


def without_its_mark(path: Path) -> None:
    (path / LOCK_FILE).unlink()
    LocalBus(path).close()


def killed(act: Callable[[Path], None], path: Path, step: int) -> bool:
    """In another process; False when it came to its end before that step."""
    if (pid := os.fork()) == 0:
        gc.disable()  # what other threads had locked at the fork stays locked: nobody's finaliser may run
        left = [step]

        def before(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*values: Any, **named: Any) -> Any:
                left[0] -= 1
                if not left[0]:
                    os._exit(KILLED)
                return call(*values, **named)

            return counted

        try:
            for name in STEPS:
                setattr(os, name, before(getattr(os, name)))
            act(path)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


@pytest.mark.parametrize("marked", [True, False], ids=["", "and the mark is lost, as in a power cut"])
@pytest.mark.parametrize("act", [start, publish, watermark, forget, prune, mend, without_its_mark])
def test_killed_before_any_step_leaves_a_bus_that_goes_on(
    tmp_path: Path, act: Callable[[Path], None], marked: bool
) -> None:
    there = 0 if act is start else 30
    for step in count(1):
        path = tmp_path / str(step)
        if there:
            bus = LocalBus(path)
            for n in range(0, there, 10):
                bus.publish(made(n, n + 10))
            bus.close()
        went_on = killed(act, path, step)
        if not marked:
            (path / LOCK_FILE).unlink(missing_ok=True)
        for _ in range(2):  # once more: what the first one mended stays so
            bus = LocalBus(path)
            found = bus.read("decisions", 0, 10_000)
            head = bus.head("decisions")
            assert [d.offset for d in found] == list(range(head - len(found) + 1, head + 1))
            assert head >= there
            expected = {d.offset: f"decision {d.offset - 1} ".encode() * 20 for d in found if d.offset <= there}
            if act is forget:
                bus.forget(["key-3", "key-29"])
                expected |= {4: b"", 30: b""}
                found = bus.read("decisions", 0, 10_000)
            if act is mend:
                expected |= dict.fromkeys(range(1, 11), b"")
            assert {d.offset: d.payload for d in found if d.offset <= there} == expected
            assert len(found) >= (0 if act is prune else there)
            (receipt,) = bus.publish([Message("decisions", f"new-{head}", b"")])
            assert (receipt.offset, receipt.repeated) == (head + 1, False)
            bus.close()
        if not went_on:
            break
    assert step > (2 if act in (watermark, without_its_mark) else 4), "there are steps to be killed before"
