"""Files that several processes share: exclusive locks, and writes that a reader sees whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rl_core.waiting import looks

_MEANINGS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the quota of the disk is used up; free some space",
    errno.EFBIG: "a file may not become larger; raise the limit on file sizes (ulimit -f)",
    errno.EIO: "the disk refused a read or a write; look at its health",
    errno.EROFS: "it can't be written; look at the mount",
    errno.EACCES: "it can't be written; look at its owner and mode",
    errno.EPERM: "it can't be written; look at its owner and attributes",
    errno.ENOENT: "the folder is gone; put it back, or start its processes again",
}
_BETWEEN_LOOKS_S = 0.002
_log = logging.getLogger(__name__)


def explained(error: OSError) -> str:
    """Say in one line what an error of the disk means, and what to do about it."""
    meaning = _MEANINGS.get(error.errno or 0)
    return f"{meaning} ({error})" if meaning else str(error)


def identity(found: os.stat_result) -> tuple[int, int]:
    """Tell which file it is, whatever its name."""
    return found.st_dev, found.st_ino


class StillLocked(OSError):
    """Somebody else kept the lock for longer than one would wait."""


class PatientLock:
    """The lock file `path`, waited for as long as `timeout_s`. Excludes threads and processes alike.

    The kernel gives it back when its holder dies. Not re-entrant. The file's content is whose lock it is.
    Taking it (`with`) raises StillLocked, OSError.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = os.fspath(path)
        self._timeout_s = timeout_s
        self._threads = threading.Lock()
        self._identity = (0, 0)
        self.descriptor = -1

    def __enter__(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        if not self._threads.acquire(timeout=self._timeout_s):
            raise self._too_long()
        try:
            if not self._taken():
                self._wait(deadline)
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def is_current(self) -> bool:
        """Tell whether what was locked last is still the file under its name."""
        try:
            return identity(os.stat(self._path)) == self._identity
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Give the file back, once no thread has the lock."""
        with self._threads:
            self._drop()

    def _taken(self) -> bool:
        if self.descriptor < 0:
            self.descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._identity = identity(os.fstat(self.descriptor))
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not (current := self.is_current()):
            self._drop()  # the file was deleted: others lock another one by now
        return current

    def _wait(self, deadline: float) -> None:
        left_s = max(0.0, deadline - time.monotonic())
        if not any(self._taken() for _ in looks(left_s, _BETWEEN_LOOKS_S, jitter=True)):
            raise self._too_long()

    def _drop(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor, self._identity = -1, (0, 0)

    def _too_long(self) -> StillLocked:
        return StillLocked(
            f"{self._path}: another process kept it locked for more than {self._timeout_s:g} s; try again"
        )


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` exclusively; wait for whoever has it, saying so.

    The kernel gives the lock back when its holder dies. Threads exclude each other too; it is not re-entrant.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for %s, held by another process (%s)", what, path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, mode: int = 0o666, durable: bool = True) -> Iterator[BinaryIO]:
    """Give a file that takes the place of `path` when the block ends: on disk then, and never seen half-written.

    Where the block raises, `path` is as before. Several processes may replace the same file; the last one stands.

    Args:
        mode: its permissions, less the umask.
        durable: False leaves it to the kernel when it reaches the disk, for what a power cut may take.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666, durable: bool = True) -> None:
    """Replace `path` by this content, as `replacing` does."""
    with replacing(path, mode=mode, durable=durable) as file:
        file.write(content)


def move_synced(folder: Path, target: Path) -> None:
    """Rename the folder once all below it is on disk; its new name is, too, when this returns."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(place, name))
        sync_folder(Path(place))
    folder.rename(target)
    sync_folder(target.parent)


def drop_oldest(folder: Path, pattern: str, keep: int) -> None:
    """Remove all but the last `keep` folders by name: what was set aside for a person must not fill the disk."""
    for old in sorted(folder.glob(pattern))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Flush a file's content to disk, whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, so that a rename inside it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
