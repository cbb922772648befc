"""The bus killed before any step that it takes on the disk: the next one opens it, has what was there, and goes on."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rl_core.backends.contracts.bus import Message
from rl_core.backends.local import bus_file, message_bus
from rl_core.backends.local.message_bus import SqliteBus
from rl_core.errors import BusError

STEPS = ("fsync", "fdatasync", "ftruncate", "posix_fallocate", "replace", "unlink", "pwrite", "mkdir")
KILLED = 9
EVER = datetime(9999, 1, 1, tzinfo=UTC)


def made(begin: int, end: int) -> list[Message]:
    return [Message("decisions", f"key-{n}", f"decision {n} ".encode() * 20) for n in range(begin, end)]


def start(path: Path) -> None:
    SqliteBus(path).close()


def publish(path: Path) -> None:
    bus = SqliteBus(path)
    for begin in range(30, 1500, 490):  # into the next segments of the journal
        bus.publish(made(begin, begin + 490))
    bus.close()


def forget(path: Path) -> None:
    bus = SqliteBus(path)
    bus.forget(["key-3", "key-29"])
    bus.close()


def prune(path: Path) -> None:
    bus = SqliteBus(path)
    bus.prune("decisions", 5, EVER)
    bus.close()


def rebuild(path: Path) -> None:
    path.write_bytes(b"no database" * 100)
    SqliteBus(path).close()


def renew(path: Path) -> None:
    file = max(path.parent.glob("journal-*.log"))
    file.write_bytes(file.read_bytes().replace(b"decision 7", b"decision x"))
    SqliteBus(path).close()


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
            bus_file.write_state = before(bus_file.write_state)
            act(path)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


@pytest.mark.parametrize("act", [start, publish, forget, prune, rebuild, renew])
def test_killed_before_any_step_leaves_a_bus_that_goes_on(tmp_path: Path, act: Callable[[Path], None]) -> None:
    there = 0 if act is start else 30
    for step in count(1):
        path = tmp_path / str(step) / "bus.sqlite"
        if there:
            bus = SqliteBus(path)
            for n in range(0, there, 10):
                bus.publish(made(n, n + 10))
            bus.close()
        went_on = killed(act, path, step)
        for _ in range(2):  # once more: what the first one mended stays so
            bus = SqliteBus(path)
            found = bus.read("decisions", 0, 10_000)
            head = bus.head("decisions")
            assert [d.offset for d in found] == list(range(head - len(found) + 1, head + 1))
            assert head >= there
            expected = {d.offset: f"decision {d.offset - 1} ".encode() * 20 for d in found if d.offset <= there}
            if act is forget:
                bus.forget(["key-3", "key-29"])
                expected |= {4: b"", 30: b""}
                found = bus.read("decisions", 0, 10_000)
            assert {d.offset: d.payload for d in found if d.offset <= there} == expected
            assert len(found) >= (there - 5 if act is prune else there)
            (receipt,) = bus.publish([Message("decisions", f"new-{head}", b"")])
            assert (receipt.offset, receipt.repeated) == (head + 1, False)
            bus.close()
        if not went_on:
            break
    assert step > 5


def test_a_long_backlog_is_pruned_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_bus, "_PRUNED_AT_ONCE", 10)
    bus = SqliteBus(tmp_path / "bus.sqlite")
    for n in range(45):
        bus.publish(made(n, n + 1))
    fourth = bus.read("decisions", 3, 1)[0].received_at
    assert bus.prune("decisions", 45, fourth) == 3
    assert bus.prune("decisions", 40, EVER) == 37
    assert [d.offset for d in bus.read("decisions", 0)] == [41, 42, 43, 44, 45]
    bus.close()


def test_another_bus_in_its_place_is_not_taken_for_it(tmp_path: Path) -> None:
    """A logger would take its offsets for those that are stored."""
    path = tmp_path / "bus" / "bus.sqlite"
    logger = SqliteBus(path)
    logger.publish(made(0, 3))
    path.parent.rename(tmp_path / "moved away")
    server = SqliteBus(path)
    server.publish(made(3, 8))
    for ask in (lambda: logger.read("decisions", 3), lambda: logger.head("decisions"), logger.watermark):
        with pytest.raises(BusError, match="another bus took its place while it is in use; start its processes again"):
            ask()
    for bus in (logger, server):
        bus.close()
