"""Flushes what is committed to a Delta table, and cuts a partial commit off after a power cut.

Delta does not flush. Here a data file is on disk before a commit names it; commit and folder are flushed after it, and
the version is noted in the file `_synced`. Up to it, or to the newest whole checkpoint, the table is sound. What lies
beyond is verified when the table is opened: commits are kept up to the first that is damaged or names a damaged file;
the rest is moved to `.partial-…`. The transaction versions go back with it, so that whoever wrote writes again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rl_core.backends.local.store.delta.files import whole
from rl_core.files import drop_oldest, sync_file, sync_folder, write_atomically

PARTIAL = ".partial-"
OLDER = ".torn-"  # what the folders were called before
_MARKER = "_synced"
_SET_ASIDE = 5
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")
_log = logging.getLogger(__name__)


def log_of(table: Path) -> Path:
    """Return the folder of a table's commits."""
    return table / "_delta_log"


def settled(table: Path) -> bool:
    """Tell whether nothing was committed since the last note; true where there is no table."""
    return not log_of(table).is_dir() or max(_versions(table, _COMMIT), default=-1) == _noted(table)


def note(table: Path, version: int) -> None:
    """Note that everything up to this version is on disk. Losing the note costs a look, so it is not flushed itself."""
    write_atomically(table / _MARKER, str(version).encode(), durable=False)


def flush(table: Path, after: int, version: int) -> None:
    """Flush commits and checkpoints after a version up to another; their data files are on disk already."""
    log = log_of(table)
    names = [f"{n:020d}{end}" for n in range(after + 1, version + 1) for end in (".json", ".checkpoint.parquet")]
    for name in (*names, "_last_checkpoint"):
        with suppress(FileNotFoundError):
            sync_file(log / name)
    sync_folder(log)
    sync_folder(table)


def settle(table: Path) -> None:
    """Keep for good what is whole, and move the rest aside. Call under the table's lock."""
    versions = _versions(table, _COMMIT)
    if not versions:
        return
    _drop_torn_checkpoints(table)
    noted = _noted(table)
    trusted = max([*_versions(table, _CHECKPOINT), noted if noted <= versions[-1] else -1])
    if trusted < 0 < versions[0]:
        return  # the log's beginning is gone: Delta's own error says it
    commits = _readable(table, [version for version in versions if version > trusted], trusted)
    while commits:
        gone = {path for actions in commits.values() for path in _named(actions, "remove")}
        partial = [version for version, actions in commits.items() if _damaged(table, actions, gone)]
        if not partial:
            break
        commits = {version: actions for version, actions in commits.items() if version < partial[0]}
    last = max(commits, default=trusted)
    beyond = [version for version in versions if version > last]
    if beyond:
        _set_aside(table, beyond)
    if last >= 0:
        for actions in commits.values():
            for path in _named(actions, "add"):
                with suppress(FileNotFoundError):
                    sync_file(table / path)
        flush(table, trusted, last)
        note(table, last)


def _readable(table: Path, versions: Iterable[int], after: int) -> dict[int, list[dict[str, Any]]]:
    """The commits up to the first gap or the first that is not JSON."""
    found: dict[int, list[dict[str, Any]]] = {}
    for version in versions:
        try:
            if version != after + 1:
                break
            text = (log_of(table) / f"{version:020d}.json").read_text()
            actions = [json.loads(line) for line in text.splitlines()]
            if not actions or not all(isinstance(action, dict) for action in actions):
                break
        except (OSError, ValueError):
            break
        found[version], after = actions, version
    return found


def _damaged(table: Path, actions: list[dict[str, Any]], gone: set[str]) -> bool:
    added = {unquote(a["add"]["path"]): a["add"].get("size") for a in actions if "add" in a}
    return any(path not in gone and not whole(table / path, size) for path, size in added.items())


def _named(actions: list[dict[str, Any]], verb: str) -> list[str]:
    return [unquote(action[verb]["path"]) for action in actions if verb in action]


def _drop_torn_checkpoints(table: Path) -> None:
    """A checkpoint repeats what the commits before it say: Delta reads those, or the checkpoint before."""
    log = log_of(table)
    for version in _versions(table, _CHECKPOINT):
        if not whole(path := log / f"{version:020d}.checkpoint.parquet"):
            _log.warning("%s was cut short, and is made again with the next commits", path)
            path.unlink()
    try:
        last = json.loads((log / "_last_checkpoint").read_text())["version"]
        stale = not (log / f"{last:020d}.checkpoint.parquet").exists()
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        stale = True
    if stale:
        (log / "_last_checkpoint").unlink()


def _set_aside(table: Path, versions: list[int]) -> None:
    aside = table / f"{PARTIAL}{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{versions[0]}"
    aside.mkdir(exist_ok=True)
    for version in reversed(versions):  # the last first: killed in between, the rest is found again
        commit = log_of(table) / f"{version:020d}.json"
        actions = _readable(table, [version], version - 1).get(version, [])
        os.replace(commit, aside / commit.name)
        for path in _named(actions, "add"):
            with suppress(FileNotFoundError):
                os.replace(table / path, aside / path)
    drop_oldest(table, f"{PARTIAL}*", _SET_ASIDE)
    sync_folder(log_of(table))
    sync_folder(table)
    _log.warning(
        "%s: commits %d..%d did not reach the disk whole; moved to %s, and what they held is written again",
        table,
        versions[0],
        versions[-1],
        aside.name,
    )


def _noted(table: Path) -> int:
    try:
        return int((table / _MARKER).read_text())
    except (OSError, ValueError):
        return -1


def _versions(table: Path, pattern: re.Pattern[str]) -> list[int]:
    return sorted(int(found[1]) for name in os.listdir(log_of(table)) if (found := pattern.fullmatch(name)))
