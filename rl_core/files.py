"""Files that several processes share: exclusive locks, and writes that a reader sees whole or not at all."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

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
