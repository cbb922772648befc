"""`banditloop import`: checks a file as a whole, says what is in it, and appends it to the log as one job with an end.

The producer is named by all that shapes the rows: bandit, problem, file, mapping and policy. So the same command finds
its own rows: cut short, it goes on behind them, and after its end it adds nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rl_core.backends import job_log, open_backend
from rl_core.backends.contracts.store import EventStore, Joiner
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError, DataError
from rl_core.files import write_atomically
from rl_core.importing import dsjson, obp, readers
from rl_core.importing.mapping import Mapping
from rl_core.importing.rows import Checked, Checks, counted, in_tables
from rl_core.importing.summary import Summary
from rl_core.importing.tables import as_file

ASIDE = "imports"
"""Folder beside the store, of files with the lines that were set aside."""


def run(
    bandit: Bandit,
    settings: Settings,
    source: Path | str,
    words: Sequence[str] = (),
    kind: str | None = None,
    policy: str = "imported",
    dry_run: bool = False,
) -> int:
    """Import a file into the log and join it; print what is in it. With `dry_run` nothing is appended.

    Args:
        source: a file, or a table `bq://project.dataset.table`.
        words: the mapping, `field=column`.
        policy: whose decisions these are, one of validation.other_policies.

    Raises:
        ConfigError: the mapping or the policy is none.
        DataError: the file can't be read, or too many of its rows break a rule; nothing was appended.
        StoreError: run it again; it goes on where it stopped.
    """
    if policy not in bandit.validation.other_policies:
        known = ", ".join(bandit.validation.other_policies) or "none"
        raise ConfigError(
            f"policy {policy!r} is none of validation.other_policies ({known}): rows of it would not train. Add it to "
            f"{bandit.name}.yaml, or name another with --policy"
        )
    with as_file(bandit, settings, str(source)) as path:
        _import(bandit, settings, path, str(source), words, readers.format_of(path, kind), policy, dry_run)
    return 0


def _import(
    bandit: Bandit,
    settings: Settings,
    path: Path,
    source: str,
    words: Sequence[str],
    kind: str,
    policy: str,
    dry_run: bool,
) -> None:
    started = time.perf_counter()
    features = tuple(bandit.problem.features)
    default = {"dsjson": dsjson.DEFAULT, "npz": obp.DEFAULT}.get(kind)
    mapping = Mapping.parse(words, default, features)
    dim, named = len(features) or bandit.problem.observation_dim, len(mapping.observation)
    if features and named != dim:
        raise ConfigError(f"--map observation names {named} columns, the bandit has {dim}: {', '.join(features)}")
    if not features and named != dim and (named > 1 or kind == "csv"):
        raise ConfigError(
            f"--map observation names {named} columns, observation_dim is {dim}: name {dim}, in their order"
        )
    producer = _producer(bandit, path, kind, mapping, policy)

    def checked() -> Iterator[Checked]:
        checks = Checks(bandit, mapping, producer)
        return map(checks.of, readers.read(path, kind, mapping, bandit.problem.actions))

    summary = Summary(bandit)
    for part in checked():
        summary.add(part)
        if summary.total > readers.PART_ROWS:
            print(f"import: {summary.total:,} rows checked", flush=True)
    aside = settings.state_dir(bandit) / ASIDE / f"{producer}.csv"
    if summary.aside and not dry_run:
        aside.parent.mkdir(parents=True, exist_ok=True)
        listed = "".join(f'{line},"{reason}"\n' for line, reason in summary.aside)
        write_atomically(aside, f"line,reason\n{listed}".encode())
    print(f"import: {source}, {kind}; decisions of {policy!r}\n{summary.text()}", flush=True)
    _check_share(summary, bandit, path, None if dry_run else aside)
    if dry_run:
        print("import: dry run, nothing was appended", flush=True)
        return
    seconds = time.perf_counter() - started
    store = open_backend(bandit, settings).store()
    head = append(bandit, store, store.joiner(bandit), producer, policy, checked(), summary.rows)
    print(
        f"import: {summary.rows:,} rows of {producer} are in the log and joined, its head is {head:,} "
        f"(checked in {seconds:.1f} s, appended in {time.perf_counter() - started - seconds:.1f} s)",
        flush=True,
    )


def append(
    bandit: Bandit,
    store: EventStore,
    joiner: Joiner,
    producer: str,
    policy: str,
    parts: Iterable[Checked],
    rows: int,
) -> int:
    """Append and join the parts that are not in the log yet, to the producer's end; return the log's head.

    Args:
        rows: of all parts.
    """
    there, done = store.last_offset("decisions", producer), 0
    first = job_log.begun_at(store, producer) or datetime.now(UTC) - timedelta(microseconds=rows)
    for decisions, rewards in in_tables(parts, bandit, producer, policy, first) if there < rows else ():
        done += decisions.num_rows
        if done <= there:
            continue
        job_log.append(store, decisions, rewards)
        store.complete(producer)  # so far: what a part leaves unrewarded need not be held to the end
        joiner.run(None)
        if done < rows:
            print(f"import: {done:,} of {rows:,} rows in the log", flush=True)
    store.complete(producer)
    return joiner.run(None).head


def _producer(bandit: Bandit, path: Path, kind: str, mapping: Mapping, policy: str) -> str:
    said = f"{bandit.id}\0{bandit.problem.model_dump_json()}\0{kind}\0{mapping}\0{policy}\0"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"import-{hashlib.sha256(f'{said}{digest}'.encode()).hexdigest()[:24]}"


def _check_share(summary: Summary, bandit: Bandit, path: Path, aside: Path | None) -> None:
    limit = bandit.validation.max_quarantined_share
    if not summary.total:
        raise DataError(f"{path}: holds no row")
    if len(summary.aside) > limit * summary.total:
        reason, count, first = counted(summary.aside)[0]
        raise DataError(
            f"{path}: {len(summary.aside):,} of {summary.total:,} rows can't be imported, more than "
            f"validation.max_quarantined_share={limit:g} allows, so nothing was: {count:,} because {reason}, first in "
            f"line {first}{f'; all are listed in {aside}' if aside else ''}"
        )
