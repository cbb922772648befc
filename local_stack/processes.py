"""Finds and signals other processes; one that ends meanwhile is left out, and is no error."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable

import psutil


def living(ours: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Return the processes of this machine for which `ours` is true. A zombie does not live."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if ours(process) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def living_with(variable: str, prefix: str) -> list[psutil.Process]:
    """Return processes that were started with an environment variable whose value begins with `prefix`."""
    return living(lambda process: process.environ().get(variable, "").startswith(prefix))


def identity(pid: int) -> tuple[int, float]:
    """Return a process's id and its start, in seconds from the machine's: the wall clock may be set while it lives."""
    return pid, _born_s(psutil.Process(pid))


def identified(pid: int, born_s: float) -> psutil.Process | None:
    """Return the process of this identity; None where it has ended, and a stranger may have its id."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if _born_s(process) == born_s:
            return process
    return None


def with_descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return the processes below this one, then itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [*process.children(recursive=True), process]
    return [process]


def command_line(process: psutil.Process) -> str:
    """Return the command with its arguments, or the title that the process gave itself; "" once it has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    """Send a signal to each of them; psutil makes sure that an id still means the same process."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _born_s(process: psutil.Process) -> float:
    return float(round(process.create_time() - psutil.boot_time(), 2))  # the kernel counts in hundredths
