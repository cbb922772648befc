"""The event store on BigQuery: tables of `tables.py`, which provisioning makes; nothing is created here."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.backends.conform import completion, conform, gap, not_the_next, span, window_of
from rl_core.backends.contracts.store import Forgotten, OpenDecisions, Window
from rl_core.backends.gcp.store import forgetting
from rl_core.backends.gcp.store import rows as convert
from rl_core.backends.gcp.store.joiner import JoinerRow, SqlJoiner
from rl_core.backends.gcp.store.queries import READER, WRITER, Queries, sql_file
from rl_core.backends.gcp.store.tables import KINDS
from rl_core.errors import StoreError
from rl_core.google_cloud.failures import explained
from rl_core.schema import INTERACTION_SCHEMA, TABLES, arrow_schema

if TYPE_CHECKING:
    from rl_core.config import Bandit
    from rl_core.google_cloud.clients import GoogleClients

Log = Literal["decisions", "rewards"]
Streamed = Literal["decisions", "rewards", "activations", "heartbeats", "rejected_events"]
_ONE_OF: dict[str, str] = {
    "decisions": "decision",
    "rewards": "reward",
    "activations": "activation",
    "rejected_events": "rejected",
}
_PART_ROWS = 500  # of one insertAll: https://cloud.google.com/bigquery/quotas#streaming_inserts
_SLOW = timedelta(minutes=5)  # rows that took so long may lie before what the joiner still reads
_DEADLINE_S = 60.0


class BigQueryEventStore:
    """`EventStore` in the dataset of a bandit. Thread-safe."""

    def __init__(self, clients: GoogleClients) -> None:
        self._clients = clients
        self.queries = Queries(clients)

    @property
    def bytes_scanned(self) -> int:
        return self.queries.bytes_processed

    def joiner(self, bandit: Bandit) -> SqlJoiner:
        return SqlJoiner(bandit, self)

    def append(self, table: Log, rows: pa.Table) -> int:
        rows = conform(rows, arrow_schema(TABLES[table]))
        if not rows.num_rows:
            return 0
        producer, first, last = span(table, rows)
        batch = self._load(table, rows)
        sql = sql_file("append_log", table=table, staging=f"{table}_staging", columns=_columns(table))
        received_from = pc.min(rows["received_at"]).as_py()
        answer = self.queries.transact(
            self._said("append to", table),
            sql,
            producer=producer,
            first=first,
            batch=batch,
            received_from=received_from,
        )
        known = answer.rows["known"][0].as_py()
        if first > known + 1:
            raise gap(table, producer, known, first)
        return int(max(0, last - max(known, first - 1)))

    def last_offset(self, table: Log, producer: str) -> int:
        sql = sql_file("last_offset", table=table)
        answer = self.queries.run(self._said("last-offset of", table), sql, producer=producer)
        return int(answer.rows["known"][0].as_py())

    def complete(self, producer: str) -> None:
        (row,) = completion(producer, self.last_offset("decisions", producer)).to_pylist()
        self.queries.transact(
            self._said("append to", "completions"),
            sql_file("complete"),
            producer=producer,
            decisions=row["decisions"],
            now=row["completed_at"],
        )

    def open_decisions(self) -> tuple[OpenDecisions, ...]:
        sql, open_from = sql_file("open_decisions"), self.joiner_row().open_from
        rows = self.queries.run(self._said("read", "decisions"), sql, open_from=open_from).rows
        return tuple(OpenDecisions(**row) for row in rows.to_pylist())

    def append_interactions(self, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        rows = conform(rows, INTERACTION_SCHEMA)
        seqs = rows["seq"].to_numpy()
        first, last = int(seqs[0]), int(seqs[-1])
        if (seqs[1:] - seqs[:-1] != 1).any():
            raise not_the_next(self.head(), first, last)
        batch = self._load("interactions", rows)
        sql = sql_file("append_interactions", columns=_columns("interactions"))
        answer = self.queries.transact(
            self._said("append to", "interactions"), sql, batch=batch, first=first, last=last
        )
        known = answer.rows["known"][0].as_py()
        if known != first - 1:
            raise not_the_next(known, first, last)

    def head(self) -> int:
        """Read the last seq from the table `joiner` without a query: no job, no byte billed."""
        return self.joiner_row().head

    def joiner_row(self) -> JoinerRow:
        """Read the row of table `joiner` without a query."""
        from google.cloud import bigquery
        from google.cloud.bigquery.retry import DEFAULT_RETRY

        fields = [
            bigquery.SchemaField(name, kind)
            for name, kind in (
                ("head", "INTEGER"),
                ("revision", "INTEGER"),
                ("open", "INTEGER"),
                ("open_from", "TIMESTAMP"),
                ("next_from", "TIMESTAMP"),
                ("watermark", "TIMESTAMP"),
            )
        ]
        place = self._clients.names.table("joiner")
        with explained(StoreError, f"read {place}", self._clients.names, READER):
            found = self._clients.bigquery.list_rows(
                place, selected_fields=fields, max_results=2, retry=DEFAULT_RETRY.with_timeout(_DEADLINE_S), timeout=20
            )
            rows = [JoinerRow(**{field.name: row[field.name] for field in fields}) for row in found]
        if len(rows) != 1:
            raise StoreError(
                f"{place} holds {len(rows)} rows instead of one; run the DAG …_provision, or restore the table"
            )
        return rows[0]

    def interactions(self, window: Window, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the window's rows; reads its partitions only, and of them the columns asked for."""
        wanted = window_of(window, self.head(), columns)
        low, high = window
        read = list(dict.fromkeys(["seq", *wanted]))
        listed = ", ".join(f"`{name}`" for name in read)
        sql = f"SELECT {listed} FROM interactions WHERE seq BETWEEN @first AND @last ORDER BY seq"  # noqa: S608
        rows = self.queries.run(self._said("read", "interactions"), sql, first=low + 1, last=high).rows
        if rows.num_rows != high - low:
            raise StoreError(f"window ({low}, {high}] holds {rows.num_rows} of {high - low} rows; the store is damaged")
        return convert.read(rows, pa.schema([INTERACTION_SCHEMA.field(name) for name in wanted]))

    def forget(self, subjects: Sequence[str], event_ids: Sequence[str], dry_run: bool = False) -> Forgotten:
        found = forgetting.find(self.queries, subjects, event_ids)
        if not dry_run:
            forgetting.forget(self.queries, found, subjects)
        return found

    def query(self, sql: str) -> pa.Table:
        from google.api_core.exceptions import BadRequest

        try:
            with explained(StoreError, f"query {sql[:80]!r}", self._clients.names, READER):
                kind = self.queries.statement_type(sql)
        except StoreError as error:
            if isinstance(error.__cause__, BadRequest):
                said = " ".join(str(error.__cause__.message).split())
                raise StoreError(f"{said} (in {sql[:80]!r})") from error
            raise
        if kind != "SELECT":
            raise StoreError(f"not a query: {sql[:80]!r}; the store is read with SELECT")
        return self.queries.run(f"query {sql[:80]!r}", sql).rows

    def stream(self, table: Streamed, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        """Insert rows one by one, whatever is in already: for the logger, which may be handed a message twice.

        Args:
            rows: of the table's schema; an `at`, `received_at` … is a datetime.

        Raises:
            SchemaError: the rows are none of this table's.
            StoreError: not all of them are in; insert all of them again.
        """
        from google.cloud.bigquery.retry import DEFAULT_RETRY

        sent = convert.in_json(rows, KINDS[table].columns)
        names, place = self._clients.names, self._clients.names.table(table)
        for low in range(0, len(sent), _PART_ROWS):
            part = sent[low : low + _PART_ROWS]
            with explained(StoreError, f"insert into {place}", names, "roles/bigquery.dataEditor on the dataset"):
                faults = self._clients.bigquery.insert_rows_json(
                    place,
                    part,
                    row_ids=[_row_id(table, row) for row in part],
                    retry=DEFAULT_RETRY.with_timeout(_DEADLINE_S),
                    timeout=30,
                )
            if faults:
                first = faults[0]["errors"][0]
                raise StoreError(
                    f"insert into {place}: {len(faults)} of {len(part)} rows refused: "
                    f"{first.get('location', '')} {first.get('message', '')}; see rl_core/schema.py"
                )
        if table in ("decisions", "rewards", "activations") and sent:
            self._look_back(min(datetime.fromisoformat(row["received_at"]) for row in sent))

    def _look_back(self, received_from: datetime) -> None:
        """Rows that arrive when their server was long taken as gone are joined all the same.

        A run that is under way can't see them, and moves `open_from` up as far as `next_from`.
        """
        if datetime.now(UTC) - received_from < _SLOW:
            return
        row = self.joiner_row()
        if max(row.open_from, row.next_from or row.open_from) <= received_from:
            return
        self.queries.transact(
            self._said("look-back in", "joiner"),
            "UPDATE joiner SET open_from = LEAST(open_from, @received_from), "
            "next_from = LEAST(next_from, @received_from), revision = revision + 1 WHERE TRUE",
            received_from=received_from,
        )

    def _load(self, table: str, rows: pa.Table) -> str:
        """Into the staging table; returns the batch under which they lie there."""
        from google.api_core.exceptions import Conflict
        from google.cloud import bigquery

        batch = uuid.uuid4().hex
        field = pa.field("batch", pa.string(), nullable=False)
        content = convert.stored(rows).add_column(0, field, pa.array([batch] * rows.num_rows, pa.string()))
        options = bigquery.ParquetOptions()
        options.enable_list_inference = True
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            labels=self._clients.names.labels,
        )
        config.parquet_options = options
        client, place = self._clients.bigquery, self._clients.names.table(f"{table}_staging")
        job_id = f"{self._clients.names.bandit_id}-load-{batch}"
        with explained(StoreError, f"load into {place}", self._clients.names, WRITER):
            try:
                job = client.load_table_from_file(
                    convert.parquet(content), place, job_id=job_id, job_config=config, timeout=120
                )
            except Conflict:  # the answer to the first try was lost
                job = client.get_job(job_id, location=self._clients.names.location)
            job.result()
        return batch

    def _said(self, verb: str, table: str) -> str:
        return f"{verb} {self._clients.names.table(table)}"


def _columns(table: str) -> str:
    return ", ".join(f"`{column.name}`" for column in TABLES[table])


def _row_id(table: str, row: Mapping[str, Any]) -> str:
    """BigQuery drops a row whose id it has seen within the last minute; readers drop the others."""
    if table == "heartbeats":
        return f"{row['producer']}/heartbeat/{row['at']}"
    kind = f"rejected-{row['kind']}" if table == "rejected_events" else _ONE_OF[table]
    return f"{row['producer']}/{kind}/{row['offset']}"
