"""The dataset and its tables: what provisioning makes, and what everything else expects to be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rl_core.errors import StoreError
from rl_core.google_cloud.failures import explained
from rl_core.schema import COMPLETION, HEARTBEAT, REJECTED_EVENT, TABLES, Column, bigquery_schema

if TYPE_CHECKING:
    from rl_core.google_cloud.clients import GoogleClients

SEQ_PER_PARTITION = 100_000
_PARTITIONS = 10_000  # the most a table may have: https://cloud.google.com/bigquery/quotas#partitioned_tables
_FIRST_ROWS = 10
_DAY_MS = 24 * 3600 * 1000
OWNER = "roles/bigquery.dataOwner on the project"
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

JOINER = (
    Column("head", "int64", "the last seq of interactions, 0 if none"),
    Column("revision", "int64", "one more with every change of this row: two runs that began with the same conflict"),
    Column("open", "int64", "decisions that wait for their reward"),
    Column("open_from", "timestamp", "everything received before it has been dealt with: runs read from here on"),
    Column("next_from", "timestamp", "open_from will not pass it in the run that is under way", nullable=True),
    Column("watermark", "timestamp", "the furthest that a run has timed decisions out by", nullable=True),
    Column("joined_at", "timestamp", "when the last run ended", nullable=True),
)

_BATCH = Column("batch", "string", "the append that brought the row here")


@dataclass(frozen=True)
class TableKind:
    """One table of the dataset: its columns, and how it is partitioned and kept.

    Args:
        day: the timestamp column whose UTC day partitions the table; "" partitions by the day of loading.
        keep_days: partitions older than this are deleted; None keeps them for ever.
        raw: they are kept for retention.raw_log_days of the bandit instead.
    """

    columns: tuple[Column, ...]
    description: str
    day: str | None = None
    by_seq: bool = False
    clustering: tuple[str, ...] = field(default=())
    keep_days: int | None = None
    raw: bool = False


def _staging(table: str) -> TableKind:
    # `at` rest for a moment: a load job can't be part of a transaction, an INSERT … SELECT can.
    return TableKind(
        (_BATCH, *TABLES[table]), f"rows on their way into {table}", day="", clustering=("batch",), keep_days=1
    )


KINDS: dict[str, TableKind] = {
    # Clustered by time within the day, the joiner's predicate on received_at reads the last hours only.
    "decisions": TableKind(
        TABLES["decisions"],
        "what the policies chose; at least once: the first by (producer, offset) counts",
        day="received_at",
        clustering=("received_at", "producer"),
        raw=True,
    ),
    "rewards": TableKind(
        TABLES["rewards"],
        "what the choices earned; at least once: the first by (producer, offset) counts",
        day="received_at",
        clustering=("received_at", "producer"),
        raw=True,
    ),
    "activations": TableKind(
        TABLES["activations"],
        "which deferred decisions' answers were used; at least once",
        day="received_at",
        clustering=("received_at", "producer"),
        raw=True,
    ),
    # Clustered by event_id, a look-up opens the blocks between the smallest and the largest id it asks for.
    "interactions": TableKind(
        TABLES["interactions"],
        "closed decisions with their reward, numbered without gap; written by the joiner alone",
        by_seq=True,
        clustering=("event_id",),
    ),
    "rewards_apart": TableKind(
        TABLES["rewards_apart"], "rewards that no interaction holds, and why", day="received_at", raw=True
    ),
    "completions": TableKind(COMPLETION, "which jobs have appended all rewards of their decisions"),
    "heartbeats": TableKind(HEARTBEAT, "what each server had accepted, and when", day="at", keep_days=7),
    "rejected_events": TableKind(REJECTED_EVENT, "messages that can't be rows of the log", day="received_at", raw=True),
    "joiner": TableKind(JOINER, "one row: where the joiner stands"),
    "decisions_staging": _staging("decisions"),
    "rewards_staging": _staging("rewards"),
    "interactions_staging": _staging("interactions"),
}


def ensure_tables(clients: GoogleClients) -> list[str]:
    """Make dataset and tables where missing, bring columns up to date; return the full names of what was made.

    Raises StoreError naming setting and role.
    """
    from google.cloud import bigquery
    from google.cloud.exceptions import Conflict

    client, names, made = clients.bigquery, clients.names, []
    with explained(StoreError, f"make dataset {names.project}.{names.dataset}", names, OWNER):
        dataset = bigquery.Dataset(f"{names.project}.{names.dataset}")
        dataset.location = names.location
        dataset.labels = names.labels
        dataset.description = f"the log of {names.bandit_id}"
        if names.google.kms_key is not None:
            dataset.default_encryption_configuration = bigquery.EncryptionConfiguration(names.google.kms_key)
        for place, resource in [(f"{names.project}.{names.dataset}", dataset), *_resources(clients)]:
            try:
                if isinstance(resource, bigquery.Dataset):
                    client.create_dataset(resource)
                else:
                    client.create_table(resource)
                made.append(place)
            except Conflict:
                if isinstance(resource, bigquery.Table):
                    _bring_up_to_date(client, resource, KINDS[resource.table_id].columns)
        _first_row(clients)
    return made


def missing_tables(clients: GoogleClients) -> list[str]:
    """Return the full names of what `ensure_tables` would make. Raises StoreError naming setting and role."""
    from google.cloud.exceptions import NotFound

    client, names = clients.bigquery, clients.names
    role = "roles/bigquery.metadataViewer on the dataset"
    with explained(StoreError, f"look at dataset {names.project}.{names.dataset}", names, role):
        try:
            dataset = client.get_dataset(names.dataset)
        except NotFound:
            return [f"{names.project}.{names.dataset}", *(names.table(name) for name in KINDS)]
        if dataset.location.lower() != names.location.lower():
            raise StoreError(
                f"dataset {names.project}.{names.dataset} is in {dataset.location}; set google.location to it, or take "
                "another prefix: a dataset can't move"
            )
        there = {table.table_id for table in client.list_tables(names.dataset)}
    return [names.table(name) for name in KINDS if name not in there]


def drop(clients: GoogleClients) -> list[str]:
    """Delete the dataset with everything in it, if it carries our label; return the full names of what is gone."""
    from google.cloud.exceptions import NotFound

    from rl_core.google_cloud.names import LABEL

    client, names = clients.bigquery, clients.names
    place = f"{names.project}.{names.dataset}"
    with explained(StoreError, f"delete dataset {place}", names, OWNER):
        try:
            dataset = client.get_dataset(names.dataset)
        except NotFound:
            return []
        if (dataset.labels or {}).get(LABEL) != names.bandit_id:
            raise StoreError(f"dataset {place} has no label {LABEL}={names.bandit_id}: it is not ours to delete")
        gone = [names.table(table.table_id) for table in client.list_tables(names.dataset)]
        client.delete_dataset(names.dataset, delete_contents=True)
    return [*gone, place]


def _resources(clients: GoogleClients) -> Iterator[tuple[str, Any]]:
    from google.cloud import bigquery

    for name, kind in KINDS.items():
        place = clients.names.table(name)
        table = bigquery.Table(
            place, schema=[bigquery.SchemaField.from_api_repr(f) for f in bigquery_schema(kind.columns)]
        )
        table.description = kind.description
        table.labels = clients.names.labels
        if kind.day is not None:
            days = clients.bandit.retention.raw_log_days if kind.raw else kind.keep_days
            keep = None if days is None else int(days * _DAY_MS)
            table.time_partitioning = bigquery.TimePartitioning("DAY", field=kind.day or None, expiration_ms=keep)
        if kind.by_seq:
            table.range_partitioning = bigquery.RangePartitioning(
                field="seq",
                range_=bigquery.PartitionRange(0, SEQ_PER_PARTITION * (_PARTITIONS - 1), SEQ_PER_PARTITION),
            )
        if kind.clustering:
            table.clustering_fields = list(kind.clustering)
        if clients.names.google.kms_key is not None:
            table.encryption_configuration = bigquery.EncryptionConfiguration(clients.names.google.kms_key)
        yield place, table


def up_to_date(found: Sequence[Any], columns: tuple[Column, ...]) -> list[Any]:
    """Return a table's fields with those that it lacks, and nullable where they may be null now; else as they are."""
    from google.cloud import bigquery

    wanted = {field["name"]: field for field in bigquery_schema(columns)}
    relaxed = [
        bigquery.SchemaField.from_api_repr({**field.to_api_repr(), "mode": "NULLABLE"})
        if field.mode == "REQUIRED" and wanted.get(field.name, {}).get("mode") == "NULLABLE"
        else field
        for field in found
    ]
    known = {field.name for field in found}
    lacking = [bigquery.SchemaField.from_api_repr(field) for name, field in wanted.items() if name not in known]
    return [*relaxed, *lacking]


def _bring_up_to_date(client: Any, wanted: Any, columns: tuple[Column, ...]) -> None:
    """Columns are only ever added or let be null; how long partitions are kept may change."""
    found = client.get_table(wanted.reference)
    fields = up_to_date(found.schema, columns)
    if fields != found.schema:
        found.schema = fields
        client.update_table(found, ["schema"])
    here, there = found.time_partitioning, wanted.time_partitioning
    if here is not None and there is not None and here.expiration_ms != there.expiration_ms:
        here.expiration_ms = there.expiration_ms
        found.time_partitioning = here
        client.update_table(found, ["time_partitioning"])


def _first_row(clients: GoogleClients) -> None:
    """The joiner's one row. Two statements that only insert are no conflict to BigQuery, but a job id is given once."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.cloud import bigquery
    from google.cloud.exceptions import Conflict

    names, client = clients.names, clients.bigquery
    place, head = names.table("joiner"), bigquery.SchemaField("head", "INTEGER")
    made = client.get_table(place).created
    config = bigquery.QueryJobConfig(
        default_dataset=f"{names.project}.{names.dataset}",
        query_parameters=[bigquery.ScalarQueryParameter("beginning", "TIMESTAMP", BEGINNING)],
    )
    sql = (
        "INSERT INTO joiner (head, revision, `open`, open_from) SELECT 0, 0, 0, @beginning "
        "FROM (SELECT 1 AS one) AS once WHERE NOT EXISTS (SELECT 1 FROM joiner)"
    )
    for attempt in range(_FIRST_ROWS):
        if list(client.list_rows(place, selected_fields=[head])):
            return
        job_id = f"{names.bandit_id}-first-row-{made:%Y%m%d%H%M%S%f}-{attempt}"
        try:
            client.query(sql, job_config=config, job_id=job_id, job_retry=None).result()
        except Conflict:  # somebody's at this moment; or of a row that was deleted since
            with suppress(GoogleAPICallError):  # theirs to tell; the next is ours
                client.get_job(job_id, location=names.location).result()
