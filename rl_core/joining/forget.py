"""Deletes one person's data from the log on request. What is kept where, and how long: docs/retention.md."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.backends.contracts.store import Forgotten
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError
from rl_core.joining.event_logger import drain

_CHUNK = 1 << 20
_LEASE_S = 600.0


def forget(
    bandit: Bandit, settings: Settings, subjects: Sequence[str], event_ids: Sequence[str], dry_run: bool, datasets: bool
) -> int:
    """Run `python -m rl_core forget`: delete, and print what was done. Killed anywhere, the same command goes on.

    Raises:
        ConfigError: neither a subject nor an event was named.
        StoreError, BusError: run it again.
        LeaseHeld: with `datasets`, while a training runs.
    """
    if not all((*subjects, *event_ids)) or not (subjects or event_ids):
        raise ConfigError("whose data? name --subject or --event-id, none of them empty")
    backend = open_backend(bandit, settings)
    local, store = backend.folder is not None, backend.store()
    if local:
        print("carrying what is on the bus into the store", flush=True)
        drain(bandit, settings)
    found = store.forget(subjects, event_ids, dry_run=True)
    _say("found" if not dry_run else "would be forgotten", found)
    registry = backend.registry()
    trained = list(_trained_on(registry, found.seqs))
    if not dry_run:
        if local:
            with closing(backend.bus()) as bus:
                print(f"bus: {bus.forget(found.event_ids)} messages forgotten", flush=True)
            drain(bandit, settings)  # what another process carried meanwhile
        store.forget(subjects, found.event_ids)
        print("store: forgotten, and no older version of a table is left" if local else "store: forgotten", flush=True)
    if datasets and local:
        _drop_datasets(bandit, settings, registry, dry_run)
    _say_what_stays(trained, datasets or not local, found)
    if local and not dry_run:
        print("a server that runs remembers its last answers: start it again, and they are gone there, too", flush=True)
        folders = [settings.state_dir(bandit), *_caches(bandit, settings)]
        _say_where_it_still_is(folders, {*subjects, *found.event_ids})
    return 0


def _say(verb: str, found: Forgotten) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    print(f"{verb}: {len(found.event_ids)} events; {counts}", flush=True)


def _trained_on(registry: PolicyRegistry, seqs: Sequence[int]) -> Iterator[str]:
    """Policies whose sums hold one of these interactions."""
    for version in registry.versions() if seqs else ():
        windows = registry.lineage(version).windows
        if any(window.seq_low < seq <= window.seq_high for window in windows for seq in seqs):
            yield version


def _drop_datasets(bandit: Bandit, settings: Settings, registry: PolicyRegistry, dry_run: bool) -> None:
    """Delete the pipelines' cached outputs, which are made again where they are asked for."""
    registry.lease("forget", _LEASE_S)
    try:
        for folder in _caches(bandit, settings):
            if folder.exists():
                print(f"cached datasets: {folder}{' would be removed' if dry_run else ' removed'}", flush=True)
                if not dry_run:
                    shutil.rmtree(folder)
    finally:
        registry.release("forget")


def _say_what_stays(trained: Sequence[str], datasets_gone: bool, found: Forgotten) -> None:
    if trained:
        print(
            f"stays: sums over many interactions in {len(trained)} policies ({', '.join(trained[-5:])}); no row can be "
            "read back from them. To have none in the champion, trigger the retrain DAG with full_retrain"
        )
    if found.seqs and not datasets_gone:
        print(
            "stays: cached datasets of earlier runs, numbers without ids, which no training reads any more; --datasets "
            "removes them"
        )


def _caches(bandit: Bandit, settings: Settings) -> list[Path]:
    return [settings.home / "cache" / bandit.pipeline_name(pipeline) for pipeline in ("startup", "retrain")]


def _say_where_it_still_is(folders: Iterable[Path], words: Collection[str]) -> None:
    """Whatever else there names one of them, or can't be searched: a person has to look at it."""
    paths = (path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    for path in sorted(paths) if words else ():
        if _holds(path, words):
            print(f"look at: {path} still names what was forgotten; remove it when it is no longer needed")


def _holds(path: Path, words: Collection[str]) -> bool:
    try:
        if ".parquet" in path.name and (columns := _who(path)):
            sought_values = pa.array(sorted(words), pa.string())
            return any(pc.any(pc.is_in(column, value_set=sought_values)).as_py() for column in columns)
        sought = re.compile(b"|".join(re.escape(word.encode()) for word in sorted(words)))
        with path.open("rb") as file:
            tail = b""
            while chunk := file.read(_CHUNK):
                if sought.search(tail + chunk):
                    return True
                tail = chunk[-1024:]
    except OSError:  # gone since it was listed
        return False
    except pa.ArrowException:  # of a run that was killed: it may hold anything
        return True
    return False


def _who(path: Path) -> list[pa.ChunkedArray]:
    """Events and subjects of a Parquet file: its bytes are compressed."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = [name for name in ("event_id", "subject") if name in file.schema_arrow.names]
        return list(file.read(columns).columns)
