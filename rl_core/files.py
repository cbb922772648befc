"""Files that several processes share: exclusive locks, and writes that a reader sees whole or not at all."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


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


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path`: on disk when this returns, and never seen half-written."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def copy_synced(source: Path, target: Path) -> None:
    """Copy a folder and all below it; on disk when this returns, but for the name of `target` itself."""

    def copied(file: str, to: str) -> str:
        shutil.copy2(file, to)
        sync_file(Path(to))
        return to

    shutil.copytree(source, target, copy_function=copied)
    for folder, _, _ in os.walk(target):
        sync_folder(Path(folder))


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
