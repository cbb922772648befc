"""The local event store: Delta Lake tables in a folder, queried with DuckDB."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.backends.conform import completion, conform, gap, not_the_next, span, window_of
from rl_core.backends.contracts.store import Forgotten, Joiner, OpenDecisions, Pending, Window
from rl_core.backends.local.store import checkpoint, forgetting, pending_sql, sql_answers
from rl_core.backends.local.store.by_event import ByEvent
from rl_core.backends.local.store.checkpoint import Checkpoint
from rl_core.backends.local.store.delta.table import DeltaTable
from rl_core.errors import StoreError
from rl_core.files import locked
from rl_core.schema import COMPLETION, COMPLETION_SCHEMA, INTERACTION_SCHEMA, REJECTED_EVENT, TABLES, arrow_schema

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

    from rl_core.config import Bandit

Log = Literal["decisions", "rewards"]
_REJECTED, _COMPLETIONS = "rejected_events", "completions"
_ASIDE = {_REJECTED: REJECTED_EVENT, _COMPLETIONS: COMPLETION}
_LOGS: tuple[Literal["decisions", "rewards", "activations"], ...] = ("decisions", "rewards", "activations")
_SCHEMAS = {name: arrow_schema(columns) for name, columns in (TABLES | _ASIDE).items()}
_JOINER = "joiner"  # the application whose transaction version is the head; of rewards_apart, how many there have been
FORGOTTEN = "forgotten"  # how often rows were taken away that a joiner may hold in memory


class DeltaEventStore:
    """`EventStore` in the folder `path`, which need not exist before the first append."""

    bytes_scanned = 0

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locks = path / ".locks"
        self._tables = {
            name: DeltaTable(path / name, arrow_schema(columns), by_producer=name in _LOGS)
            for name, columns in (TABLES | _ASIDE).items()
        }
        if path.exists():
            names = {file.name for file in path.iterdir()} if path.is_dir() else {path.name}
            foreign = {
                name for name in names - {*self._tables, checkpoint.NOTE, checkpoint.OLDER} if not name.startswith(".")
            }
            if foreign:
                raise StoreError(f"{path} is not an event store: it holds {min(foreign)!r}; give another folder")

    def joiner(self, bandit: Bandit) -> Joiner:
        from rl_core.backends.local.joining.joiner import StoreJoiner

        return StoreJoiner(bandit, self)

    def append(self, table: Log, rows: pa.Table, aside: Mapping[str, pa.Table] | None = None) -> int:
        rows = conform(rows, arrow_schema(TABLES[table]))
        others = {name: conform(part, _SCHEMAS[name]) for name, part in (aside or {}).items() if part.num_rows}
        if not rows.num_rows and not others:
            return 0
        producer, first, last = span(table, _stamps(rows, *others.values()))
        with self._writing(table) as delta:
            known = delta.version_of(producer)
            if first > known + 1:
                raise gap(table, producer, known, first)
            if last <= known:
                return 0
            for name, part in others.items():
                self._put_aside(name, part)
            fresh = (
                rows if first > known else rows.filter(pc.field("offset") > known)
            )  # a copy takes as long as a write
            delta.append(fresh, producer, last)
        return int(fresh.num_rows)

    def _put_aside(self, table: str, rows: pa.Table) -> None:
        """Before their offsets are passed: whoever is killed in between finds them there and adds none twice."""
        with self._writing(table) as delta:
            ends = pc.min_max(rows["offset"]).as_py()
            near = delta.dataset(lambda file: file.may_hold("offset", ends["min"], ends["max"]))
            columns = [name for name in ("producer", "kind", "offset") if name in rows.column_names]
            known = _tuples(near.to_table(columns=columns))
            fresh = rows.filter(pa.array([one not in known for one in _tuples(rows.select(columns))], pa.bool_()))
            if fresh.num_rows:
                delta.append(fresh)

    def last_offset(self, table: Log, producer: str) -> int:
        return self._tables[table].version_of(producer)

    def complete(self, producer: str) -> None:
        last = self.last_offset("decisions", producer)
        row = completion(producer, last)
        with self._writing(_COMPLETIONS) as delta:
            if delta.version_of(producer) < last:
                delta.append(row, producer, last)

    def completions(self) -> Mapping[str, int]:
        files = self._tables[_COMPLETIONS].files()
        rows = _read(self._tables[_COMPLETIONS].open(files), None) if files else COMPLETION_SCHEMA.empty_table()
        return dict(sorted(zip(rows["producer"].to_pylist(), rows["decisions"].to_pylist(), strict=True)))

    def open_decisions(self) -> tuple[OpenDecisions, ...]:
        done, beyond = self.checkpoint(), None
        if done is not None:
            made = self.since("decisions", done.decisions)
            beyond = {"decisions": made, "interactions": self.closed(made["event_id"].to_pylist())}
        (rows,) = self._answers(pending_sql.OPEN, instead=beyond)
        return tuple(OpenDecisions(**row) for row in rows.to_pylist())

    def append_interactions(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        rows = conform(rows, INTERACTION_SCHEMA)
        seqs = rows["seq"].to_numpy()
        with self._writing("interactions") as delta:
            head = delta.version_of(_JOINER)
            if seqs[0] != head + 1 or (seqs[1:] - seqs[:-1] != 1).any():
                raise not_the_next(head, seqs[0], seqs[-1])
            delta.append(rows, _JOINER, int(seqs[-1]))

    def append_apart(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        with self._writing("rewards_apart") as delta:
            offsets = rows["offset"]
            low, high = pc.min(offsets).as_py(), pc.max(offsets).as_py()
            near = delta.dataset(lambda file: file.may_hold("offset", low, high))
            there = near.to_table(columns=["producer", "offset"])
            known = set(zip(there["producer"].to_pylist(), there["offset"].to_pylist(), strict=True))
            pairs = zip(rows["producer"].to_pylist(), offsets.to_pylist(), strict=True)
            fresh = rows.filter(pa.array([pair not in known for pair in pairs], pa.bool_()))
            if fresh.num_rows:
                delta.append(fresh, _JOINER, delta.version_of(_JOINER) + fresh.num_rows)

    def head(self) -> int:
        return self._tables["interactions"].version_of(_JOINER)

    def interactions(self, window: Window, columns: Sequence[str] | None = None) -> pa.Table:
        low, high = window
        table = self._tables["interactions"]
        head, files = table.look(_JOINER)
        wanted = window_of(window, head, columns)
        near = table.open([file for file in files if file.may_hold("seq", low + 1, high)])
        rows = _between(near, low, high, list(dict.fromkeys(["seq", *wanted])))
        if rows.num_rows != high - low:
            raise StoreError(f"window ({low}, {high}] holds {rows.num_rows} of {high - low} rows; the store is damaged")
        return rows.select(wanted)

    def since(self, table: Literal["decisions", "rewards", "activations"], offsets: Mapping[str, int]) -> pa.Table:
        producer, offset = pc.field("producer"), pc.field("offset")
        beyond = ~producer.isin(pa.array(offsets, pa.string()))
        for name, last in offsets.items():
            beyond |= (producer == name) & (offset > last)
        files = self._tables[table].dataset(
            lambda file: file.may_hold("offset", offsets.get(file.only("producer"), 0) + 1)
        )
        return _by_producer(_read(files, beyond if offsets else None))

    def closed(self, event_ids: Sequence[str]) -> pa.Table:
        asked = ByEvent(self._tables["interactions"], event_ids)
        return asked.rows(["event_id", "decided_at", "received_at", "closed_by"])

    def pending(self) -> Pending:
        done = self.checkpoint()
        if done is None and not self.head() and not self._tables["rewards_apart"].version_of(_JOINER):
            done = Checkpoint({}, {}, 0, 0, {})  # nothing is dealt with yet
        some = {} if done is None else self._beyond(done)
        if done is not None and not some["interactions"].num_rows and not some["rewards_apart"].count_rows():
            new = some | {"decisions": _kept(some["decisions"], some["decisions"]["served"])}
            return Pending(
                **{name: new[name] for name in _LOGS},
                offsets={name: {**done.offsets(name), **_last_offsets(some[name])} for name in _LOGS},
            )
        queries = (pending_sql.DECISIONS, pending_sql.rewards(done), pending_sql.ACTIVATIONS)
        answers = self._answers(*queries, *map(pending_sql.offsets, _LOGS), instead=some)
        rows: dict[str, pa.Table] = {}
        offsets: dict[str, dict[str, int]] = {}
        for name, part in zip(_LOGS, answers[: len(_LOGS)], strict=True):
            rows[name] = conform(part.cast(_SCHEMAS[name]), _SCHEMAS[name])
        for name, read in zip(_LOGS, answers[len(_LOGS) :], strict=True):
            before = {} if done is None else done.offsets(name)
            offsets[name] = {**before, **dict(zip(*read.to_pydict().values(), strict=True))}
        return Pending(**rows, offsets=offsets)

    def checkpoint(self) -> Checkpoint | None:
        """Read the joiner's checkpoint, if the tables still hold what it rests on."""
        done = checkpoint.read(self._path)
        if done and (self.head() < done.head or self._tables["rewards_apart"].version_of(_JOINER) < done.apart):
            checkpoint.remove(self._path)
            return None
        return done

    def _beyond(self, done: Checkpoint) -> dict[str, Any]:
        """Of each table what matters to rows beyond the offsets that are dealt with."""
        beyond: dict[str, pa.Table] = {name: self.since(name, done.offsets(name)) for name in _LOGS}
        rewards = beyond["rewards"]
        ids = pa.chunked_array([chunk for rows in beyond.values() for chunk in rows["event_id"].chunks], pa.string())
        asked = ByEvent(self._tables["interactions"], ids.unique().to_pylist() if self.head() else [])
        closed = asked.rows(["seq", "event_id", "reward", "reward_observed_at", "reward_received_at", "closed_by"])
        first = pc.min(rewards["offset"]).as_py()
        apart = self._tables["rewards_apart"].dataset(
            lambda file: rewards.num_rows > 0 and file.may_hold("offset", first)
        )
        return {**beyond, "interactions": closed, "rewards_apart": apart}

    def note_checkpoint(self, done: Mapping[str, Mapping[str, int]], read: Mapping[str, int]) -> None:
        apart = self._tables["rewards_apart"].version_of(_JOINER)
        checkpoint.write(self._path, Checkpoint(**done, head=self.head(), apart=apart, read=read))

    def revision(self) -> int:
        return self._tables["interactions"].version_of(FORGOTTEN)

    def forget(self, subjects: Sequence[str], event_ids: Sequence[str], dry_run: bool = False) -> Forgotten:
        with self.joiner_lock():
            found = forgetting.find(self._tables, subjects, event_ids)
            if not dry_run:
                with self._writing("interactions") as delta:  # first: no joiner closes from memory what goes now
                    delta.replace(lambda rows: None, lambda file: False, FORGOTTEN, self.revision() + 1)
                forgetting.forget(self._tables, found, subjects)
                sql_answers.sweep(self._path)
        return found

    def retire(self, before: datetime) -> Mapping[str, int]:
        """Delete raw rows received before a time that are dealt with; return how many of each table."""
        with self.joiner_lock():
            done = self.checkpoint()
            return {} if done is None else forgetting.retire(self._tables, done, before)

    def query(self, sql: str) -> pa.Table:
        return self._answers(sql)[0]

    def _answers(self, *queries: str, instead: Mapping[str, Any] | None = None) -> list[pa.Table]:
        """All from the same version of each table, or from what is given instead of it."""
        # Decisions before rewards: a job appends them the other way round.
        used = [name for name in self._tables if any(re.search(rf"\b{name}\b", sql) for sql in queries)]
        return sql_answers.answer(
            queries, {name: instead[name] if instead else self._tables[name].dataset() for name in used}, self._path
        )

    @contextmanager
    def joiner_lock(self) -> Iterator[None]:
        with locked(self._locks / "joiner.lock", "the joiner's turn"):
            yield

    @contextmanager
    def _writing(self, table: str) -> Iterator[DeltaTable]:
        delta = self._tables[table]
        with delta.writing():
            yield delta


def _read(files: Dataset, condition: pc.Expression | None, columns: list[str] | None = None) -> pa.Table:
    try:
        return files.to_table(filter=condition, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"the event store can't be read: {' '.join(str(error).split())}") from error


def _kept(rows: pa.Table, mask: pa.ChunkedArray) -> pa.Table:
    """Without a copy where all are kept."""
    return rows if pc.all(mask, min_count=0).as_py() else rows.filter(mask)


def _by_producer(rows: pa.Table) -> pa.Table:
    """Sort by producer and offset; not if they are one producer's and in order, as its files are."""
    offsets = rows["offset"].to_numpy()
    if len(pc.unique(rows["producer"])) <= 1 and (offsets[1:] > offsets[:-1]).all():
        return rows
    return rows.sort_by([("producer", "ascending"), ("offset", "ascending")])


def _last_offsets(rows: pa.Table) -> dict[str, int]:
    last = rows.group_by("producer").aggregate([("offset", "max")])
    return dict(zip(last["producer"].to_pylist(), last["offset_max"].to_pylist(), strict=True))


def _stamps(rows: pa.Table, *others: pa.Table) -> pa.Table:
    """Producer and offset of all of them, by offset."""
    stamps = ["producer", "offset"]
    if not others:
        return rows.select(stamps)
    return pa.concat_tables([part.select(stamps) for part in (rows, *others)]).sort_by("offset")


def _tuples(rows: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _between(files: Dataset, low: int, high: int, columns: list[str]) -> pa.Table:
    """Rows of seq in (low, high], ascending. Files come in that order: filtering and sorting cost more than reading."""
    inside = (pc.field("seq") > low) & (pc.field("seq") <= high)
    try:
        near = [part.subset(filter=inside) for part in files.get_fragments(filter=inside)]  # row groups, by statistics
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"the event store can't be read: {' '.join(str(error).split())}") from error
    from pyarrow.dataset import FileSystemDataset

    rows = _read(FileSystemDataset(near, files.schema, files.format), None, columns)
    seqs = rows["seq"].to_numpy()
    if not (seqs[1:] > seqs[:-1]).all():
        return rows.filter(inside).sort_by("seq")
    first, last = seqs.searchsorted([low, high], side="right")
    return rows.slice(first, last - first)
