"""The disk below a bandit's state: full for a while, or with a message bus that was damaged while it was in use."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

INSIDE = "BANDITLOOP_STORM_DISK"
"""Set where this process has a mount namespace of its own, so that it may mount a small disk nobody else sees."""

SIZE_MIB = 384
_PAGE = 4096
_WHOLE_LIMIT = resource.RLIM_INFINITY


class Disk(Protocol):
    kind: str

    def fill(self) -> None: ...

    def free(self) -> None: ...


class SmallDisk:
    """A tmpfs over `path`: while the ballast lies there, every write of whatever process meets ENOSPC."""

    kind = "a small disk of its own, filled (ENOSPC)"

    def __init__(self, path: Path) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(path)], check=True)
        self._path = path
        self._ballast = path / ".ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, _PAGE):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._path)], check=False)


class LimitedFiles:
    """Where nothing may be mounted: no file of the given processes may grow (EFBIG), as with a quota used up."""

    kind = "files that may not grow (RLIMIT_FSIZE, EFBIG)"

    def __init__(self, pids: Callable[[], Iterable[int | None]]) -> None:
        self._pids = pids

    def fill(self) -> None:
        self._limit(_PAGE)

    def free(self) -> None:
        self._limit(_WHOLE_LIMIT)

    def _limit(self, size: int) -> None:
        for pid in self._pids():
            if pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, _WHOLE_LIMIT))


def enter(module: str, arguments: list[str]) -> None:
    """Begin this program again in a mount namespace of its own, where the machine allows that; else return."""
    if INSIDE in os.environ or shutil.which("unshare") is None:
        return
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    trial = 'd=$(mktemp -d) && mount -t tmpfs tmpfs "$d" && umount "$d"; s=$?; rmdir "$d"; exit $s'
    if subprocess.run([*unshare, "sh", "-c", trial], capture_output=True, check=False).returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", [*unshare, sys.executable, "-m", module, *arguments])  # noqa: S606


def open_disk(state_dir: Path, pids: Callable[[], Iterable[int | None]]) -> Disk:
    return SmallDisk(state_dir) if INSIDE in os.environ else LimitedFiles(pids)


def damage(bus: Path, kind: str, seed: str) -> str:
    """Do to the files of a bus that is in use what a bad disk or a bad command would; returns what was done."""
    rng = random.Random(seed)
    patterns = {"damage the mark": "bus.lock", "damage the keys": "segment-*.keys"}
    files = sorted(bus.glob(patterns.get(kind, "segment-*.log")))
    if not files:
        return "there was none"
    path = rng.choice(files)
    if kind == "delete a segment":
        path.unlink(missing_ok=True)
        return f"deleted {path.name}"
    try:
        pages = max(1, path.stat().st_size // _PAGE)
    except FileNotFoundError:
        return f"{path.name} was not there"
    return _overwrite(path, rng, [(rng.randrange(pages) * _PAGE, _PAGE) for _ in range(max(1, pages // 16))])


def _overwrite(path: Path, rng: random.Random, places: list[tuple[int, int]]) -> str:
    try:
        descriptor = os.open(path, os.O_WRONLY)
    except FileNotFoundError:
        return f"{path.name} was not there"
    try:
        for offset, length in places:
            os.pwrite(descriptor, rng.randbytes(length), offset)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)
    return f"overwrote {len(places)} pieces of {path.name}"
