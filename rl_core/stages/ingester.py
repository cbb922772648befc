"""Writes windows of interactions as a dataset of TFRecords; quarantines rows that break a rule of the problem."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.backends import open_backend
from rl_core.backends.contracts.registry import PolicyRegistry
from rl_core.backends.contracts.store import EventStore, Window
from rl_core.config import Bandit, Settings
from rl_core.dataset import trajectories
from rl_core.dataset.action_set import ActionSet
from rl_core.dataset.quarantine import Quarantine
from rl_core.dataset.row_rules import COLUMNS
from rl_core.dataset.trajectories import Part
from rl_core.dataset.validation import Validation
from rl_core.errors import DataError, PolicyError, RegistryError
from rl_core.policy.artefact import redefined
from rl_core.policy.manifest import read_manifest

PART_ROWS = 250_000


def run(bandit: Bandit, settings: Settings, windows: Sequence[Window], out: Path, champion: str | None = None) -> int:
    """Write the windows' served interactions into the dataset folder `out`; return how many.

    Ranges of the features are the champion's; without one, or where features are declared anew, they are learnt from
    these windows. Actions that only the champion knows may train too, or a policy or a server that decided here. Rows
    that may not lie in `quarantine.parquet`, also where there are so many of them that the run stops.

    Raises:
        DataError: a window is empty or overlaps another; or more rows break a rule than
            validation.max_quarantined_share allows.
        StoreError: a window reaches past the log's head.
    """
    started = time.perf_counter()
    _check_windows(windows)
    backend = open_backend(bandit, settings)
    registry, store = backend.registry(), backend.store()
    champion = champion or registry.alias("champion")
    known = read_manifest(registry.path(champion)) if champion else None
    lists = known.named_sets if known else {}
    deciders, chosen = _decided(store, windows, {*lists, bandit.problem.action_set_version})
    lists = _lists(registry, deciders) | lists
    ranges = known.encodes if known and not redefined(known, bandit.problem) else None
    validation = Validation(bandit, registry.versions(), ranges, lists, chosen)
    with Quarantine(out) as quarantine:
        parts = _parts(store, windows, validation, quarantine)
        index = trajectories.write(
            out,
            bandit.problem,
            windows,
            parts,
            validation.apart,
            actions=validation.actions,
            encoder=lambda: validation.encoder,
        )
    rows = sum(shard.rows for shard in index.shards)
    if rows == 0:
        raise DataError(f"windows {_shown(windows)} hold no served interaction; there is nothing to train on")
    print(
        f"ingester: {rows} interactions of {_shown(windows)}, {len(index.shards)} shards{_apart(validation)}, "
        f"{_unjudged(index.unjudged)}"
        f"{time.perf_counter() - started:.2f} s",
        flush=True,
    )
    return rows


def _check_windows(windows: Sequence[Window]) -> None:
    if not windows:
        raise DataError("no window was given; there is nothing to ingest")
    for low, high in windows:
        if not 0 <= low < high:
            raise DataError(f"window ({low}, {high}] is empty; there is nothing to ingest")
    for before, after in pairwise(sorted(windows)):
        if after[0] < before[1]:
            raise DataError(f"windows {_shown([before, after])} overlap; every interaction belongs to one window")


def _decided(store: EventStore, windows: Sequence[Window], known: set[str]) -> tuple[set[str], list[str]]:
    """The policies that decided by lists of actions which are not known, and the ids of actions that a server chose.

    A server chooses from its bandit's list: an id of no list that is known was on one that came and went. What a file
    says may be a typing error.
    """
    within = " OR ".join(f"(seq > {low} AND seq <= {high})" for low, high in windows)
    columns = "policy_version, action_id, source, action_set_version"
    rows = store.query(f"SELECT DISTINCT {columns} FROM interactions WHERE {within}").to_pylist()  # noqa: S608
    chosen = {row["action_id"] for row in rows if row["source"] in ("client", "simulator") and row["action_id"]}
    return {row["policy_version"] for row in rows if row["action_set_version"] not in known}, sorted(chosen)


def _lists(registry: PolicyRegistry, versions: set[str]) -> dict[str, ActionSet]:
    """The lists of actions that these policies were trained with, as far as they are registered and can be read.

    They are the champion's too, unless it is no descendant: after a rollback. Each is fetched whole from the registry.
    """
    lists: dict[str, ActionSet] = {}
    for version in sorted(versions.intersection(registry.versions())):
        with suppress(PolicyError, RegistryError):  # damaged, or removed: the rows train all the same
            lists |= read_manifest(registry.path(version)).named_sets
    return lists


def _shown(windows: Sequence[Window]) -> str:
    return ", ".join(f"({low}, {high}]" for low, high in windows)


def _apart(validation: Validation) -> str:
    """Counts by rule, for the log line."""
    if not validation.total_apart:
        return ""
    counts = ", ".join(f"{name} {count}" for name, count in validation.apart.most_common())
    return f", {validation.total_apart} rows quarantined ({counts})"


def _unjudged(rows: int) -> str:
    return f"{rows} rows only train (which actions they could choose from, nobody knows), " if rows else ""


def _parts(
    store: EventStore, windows: Sequence[Window], validation: Validation, quarantine: Quarantine
) -> Iterator[Part]:
    for window, table in _read_ahead(store, windows):
        served = table["served"]
        checked = validation.check((table if pc.all(served).as_py() else table.filter(served)).select(COLUMNS))
        quarantine.add(checked.apart)
        yield Part(window, checked.rows, checked.folds)
    if validation.too_many:
        raise _too_many(validation, windows, quarantine.address)


def _read_ahead(store: EventStore, windows: Sequence[Window]) -> Iterator[tuple[Window, pa.Table]]:
    """Read the next part while the one before is checked and written."""
    parts = [
        (window, (start, min(start + PART_ROWS, window[1])))
        for window in windows
        for start in range(window[0], window[1], PART_ROWS)
    ]
    with ThreadPoolExecutor(1) as reader:

        def begin(part: Window) -> Future[pa.Table]:
            return reader.submit(store.interactions, part, (*COLUMNS, "served"))

        coming = begin(parts[0][1])
        for number, (window, _) in enumerate(parts, 1):
            table = coming.result()
            if number < len(parts):
                coming = begin(parts[number][1])
            yield window, table


def _too_many(validation: Validation, windows: Sequence[Window], file: str) -> DataError:
    share, limit = validation.total_apart / validation.checked, validation.limit
    return DataError(
        f"{validation.total_apart} of {validation.checked} interactions ({share:.2%}) of {_shown(windows)} break a "
        f"rule, more than validation.max_quarantined_share={limit:g} allows, so nothing was trained: "
        f"{validation.commonest()}; they lie in {file}. A higher limit trains on the others"
    )
