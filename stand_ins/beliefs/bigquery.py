"""What the log and its joiner stand on: the one-row table that serialises, rows at least once, bytes by partition."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from google.api_core.exceptions import BadRequest, GoogleAPICallError, NotFound
from google.cloud import bigquery

from rl_core.backends.gcp.store.event_store import BigQueryEventStore, Log
from rl_core.backends.gcp.store.joiner import SqlJoiner
from rl_core.backends.gcp.store.tables import ensure_tables
from rl_core.errors import StoreError
from rl_core.monitoring.delivery import bigquery_delivery
from rl_core.schema import TABLES, arrow_schema
from stand_ins.beliefs.scratch import Belief, Scratch, until

_RUNNERS = 6


def query(scratch: Scratch, sql: str, **options: Any) -> Any:
    config = bigquery.QueryJobConfig(default_dataset=scratch.dataset, use_query_cache=False, **options)
    return scratch.clients.bigquery.query(sql, job_config=config)


def counter(scratch: Scratch, name: str) -> bigquery.Table:
    table = bigquery.Table(f"{scratch.dataset}.{name}", schema=[bigquery.SchemaField("n", "INTEGER")])
    made: bigquery.Table = scratch.clients.bigquery.create_table(table)
    query(scratch, f"INSERT INTO {name} (n) VALUES (0)").result()  # noqa: S608
    return made


def count(scratch: Scratch, table: bigquery.Table) -> int:
    """Through tabledata.list: no query."""
    return int(next(iter(scratch.clients.bigquery.list_rows(table)))["n"])


def transactions_that_update_one_row_never_both_win(scratch: Scratch) -> str | None:
    table = counter(scratch, "contended")
    script = "BEGIN TRANSACTION; UPDATE contended SET n = n + 1 WHERE TRUE; COMMIT TRANSACTION;"

    def run(_: int) -> str | None:
        try:
            query(scratch, script).result(retry=None)
        except GoogleAPICallError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_RUNNERS) as pool:
        answers = list(pool.map(run, range(_RUNNERS)))
    won, lost = answers.count(None), [answer for answer in answers if answer is not None]
    assert won >= 1, f"nobody won: {lost[0]}"
    assert count(scratch, table) == won, f"{won} committed and the row says {count(scratch, table)}"
    assert all("concurrent" in told.lower() or "abort" in told.lower() for told in lost), lost
    return f"{won} of {_RUNNERS} that began at once committed, {len(lost)} were aborted"


def a_committed_update_is_listed_at_once(scratch: Scratch) -> str | None:
    table = counter(scratch, "listed")
    for expected in (1, 2, 3):
        query(scratch, "UPDATE listed SET n = n + 1 WHERE TRUE").result()
        assert count(scratch, table) == expected
    return None


def streamed_rows_are_queried_soon_and_may_come_twice(scratch: Scratch) -> str | None:
    table = bigquery.Table(f"{scratch.dataset}.streamed", schema=[bigquery.SchemaField("n", "INTEGER")])
    table = scratch.clients.bigquery.create_table(table)

    def insert() -> object:
        try:
            return scratch.clients.bigquery.insert_rows_json(table, [{"n": 1}], row_ids=["bus-1/1"]) == []
        except NotFound:  # a table is a moment old before rows can be streamed into it
            return False

    assert until(insert, timeout_s=120, every_s=2)
    assert until(insert, timeout_s=30), "the repeat is no error"

    def found() -> int:
        return int(next(iter(query(scratch, "SELECT COUNT(*) AS n FROM streamed").result()))["n"])

    seen = until(found, timeout_s=30)
    assert seen in (1, 2), f"one row inserted twice under one id is there {seen} times"
    return f"the row is there {'once' if seen == 1 else 'twice'}"


def a_row_that_does_not_fit_is_told_and_not_stored(scratch: Scratch) -> str | None:
    table = bigquery.Table(f"{scratch.dataset}.strict", schema=[bigquery.SchemaField("n", "INTEGER", mode="REQUIRED")])
    table = scratch.clients.bigquery.create_table(table)

    def told() -> object:
        try:
            return scratch.clients.bigquery.insert_rows_json(table, [{"n": "three"}])
        except NotFound:
            return None

    errors: Any = until(told, timeout_s=120, every_s=2)
    assert errors, "a word was taken for a number"
    assert errors[0]["errors"][0]["reason"] == "invalid", errors
    return None


def a_required_column_may_become_nullable_and_never_the_other_way(scratch: Scratch) -> str | None:
    """By a patch with a new column beside it, a list: what an older table of the log is brought up to date with."""
    client, name = scratch.clients.bigquery, f"{scratch.dataset}.relaxed"
    client.create_table(bigquery.Table(name, schema=[bigquery.SchemaField("n", "INTEGER", mode="REQUIRED")]))
    query(scratch, "INSERT INTO relaxed (n) VALUES (1)").result()
    table = client.get_table(name)
    table.schema = [bigquery.SchemaField("n", "INTEGER"), bigquery.SchemaField("ids", "STRING", mode="REPEATED")]
    client.update_table(table, ["schema"])
    query(scratch, "INSERT INTO relaxed (n, ids) VALUES (NULL, ['a']), (2, NULL)").result()
    found = [(row["n"], row["ids"]) for row in query(scratch, "SELECT n, ids FROM relaxed ORDER BY n").result()]
    assert found == [(None, ["a"]), (1, []), (2, [])], f"a null list is an empty one; got {found}"
    table = client.get_table(name)
    table.schema = [bigquery.SchemaField("n", "INTEGER", mode="REQUIRED"), table.schema[1]]
    try:
        client.update_table(table, ["schema"])
    except BadRequest as error:
        return f"the way back is refused: {error.message}"
    raise AssertionError("a nullable column became required")


def a_range_of_seq_reads_its_partitions_only(scratch: Scratch) -> str | None:
    table = bigquery.Table(f"{scratch.dataset}.ranged", schema=[bigquery.SchemaField("seq", "INTEGER")])
    table.range_partitioning = bigquery.RangePartitioning(
        field="seq", range_=bigquery.PartitionRange(start=0, end=4000, interval=1000)
    )
    scratch.clients.bigquery.create_table(table)
    query(scratch, "INSERT INTO ranged (seq) SELECT n FROM UNNEST(GENERATE_ARRAY(1, 3999)) AS n").result()

    def read(where: str) -> int:
        return int(query(scratch, f"SELECT seq FROM ranged {where}", dry_run=True).total_bytes_processed)  # noqa: S608

    whole, part = read(""), read("WHERE seq > 3100 AND seq <= 3200")
    assert whole == 8 * 3999, f"an integer is 8 bytes: {whole}"
    assert part == 8 * 1000, f"one of four partitions is {part} of {whole} bytes"
    return f"{part} of {whole} bytes"


def every_statement_of_the_log_and_its_joiner_is_taken(scratch: Scratch) -> str | None:
    assert scratch.dataset
    ensure_tables(scratch.clients)
    store, now = BigQueryEventStore(scratch.clients), datetime.now(UTC)
    joiner = SqlJoiner(scratch.clients.bandit, store)
    logs: tuple[Log, ...] = ("decisions", "rewards")
    for table in logs:
        store.append(table, _row(table, now, "job-1"))
        assert store.last_offset(table, "job-1") == 1

    def streamed() -> bool:
        try:
            store.stream("decisions", _row("decisions", now, "bus-1"))
            store.stream(
                "heartbeats", [{"producer": name, "decisions": 0, "rewards": 0, "at": now} for name in _SERVERS]
            )
        except StoreError:  # a table is a moment old before rows can be streamed into it
            return False
        return True

    assert until(streamed, timeout_s=120, every_s=2)
    assert until(joiner.watermark, timeout_s=30, every_s=2) == now
    assert joiner.run(now).head == 1, "the job's decision is closed by its reward"
    assert store.interactions((0, 1)).num_rows == store.head() == 1
    assert bigquery_delivery(scratch.clients.bandit, store, now, 0, now).acknowledged == 0
    return None


_SERVERS = ("bus-1", "bus-joiner")
_VALUES: dict[str, Any] = {
    "string": "a", "bool": True, "map": [("a", "b")], "int32": 1, "int64": 1, "float64": 1.0,
    "float32[]": [0.5], "int32[]": [0, 1], "string[]": ["a", "b"],
}  # fmt: skip


def _row(table: str, now: datetime, producer: str) -> pa.Table:
    columns = TABLES[table]
    row = {c.name: now if c.type == "timestamp" else _VALUES[c.type] for c in columns if c.name != "activation"}
    row["producer"] = producer
    return pa.Table.from_pylist([row | {"event_id": producer}], schema=arrow_schema(columns))


BELIEFS = (
    Belief(
        "bigquery",
        "every statement of the log and its joiner is taken",
        every_statement_of_the_log_and_its_joiner_is_taken,
    ),
    Belief(
        "bigquery",
        "transactions that update one row never both win, and the loser is told",
        transactions_that_update_one_row_never_both_win,
    ),
    Belief("bigquery", "tabledata.list sees a committed UPDATE at once", a_committed_update_is_listed_at_once),
    Belief(
        "bigquery", "a row streamed twice under one id is no error", streamed_rows_are_queried_soon_and_may_come_twice
    ),
    Belief("bigquery", "a row that does not fit is told, by index", a_row_that_does_not_fit_is_told_and_not_stored),
    Belief(
        "bigquery",
        "a required column may become nullable, never the other way; a null list is an empty one",
        a_required_column_may_become_nullable_and_never_the_other_way,
    ),
    Belief("bigquery", "a range of seq reads its partitions only", a_range_of_seq_reads_its_partitions_only),
)
