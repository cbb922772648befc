"""Runs queries on the bandit's dataset: GoogleSQL with parameters, tables by name, aborted transactions again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rl_core.errors import StoreError
from rl_core.google_cloud.failures import explained
from rl_core.waiting import looks

if TYPE_CHECKING:
    from google.cloud.bigquery import QueryJobConfig

    from rl_core.google_cloud.clients import GoogleClients

READER = "roles/bigquery.dataViewer on the dataset and roles/bigquery.jobUser on the project"
WRITER = "roles/bigquery.dataEditor on the dataset and roles/bigquery.jobUser on the project"
_FOLDER = Path(__file__).resolve().parent / "sql"
_DEADLINE_S = 120.0  # of one call, its repetitions included; a job may run longer, in calls that wait for it
_OVERTAKEN_FOR_S = 60.0  # until a transaction that others abort is given up: time, since their number is not known
# https://cloud.google.com/bigquery/docs/transactions#transaction_concurrency
_ABORTED = "due to concurrent update"  # "Transaction is aborted …", outside of one "Could not serialize access …"
_TYPES: dict[type, str] = {bool: "BOOL", int: "INT64", float: "FLOAT64", str: "STRING", datetime: "TIMESTAMP"}


@dataclass(frozen=True)
class Null:
    """A parameter without a value."""

    type: str


Parameter = bool | int | float | str | datetime | Null | tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """The rows of a query, and the bytes that it was billed for."""

    rows: pa.Table
    bytes_processed: int


def sql_file(name: str, **names: str) -> str:
    """Read `sql/<name>.sql` with `$table` and the like filled in."""
    return Template((_FOLDER / f"{name}.sql").read_text()).substitute(names)


class Queries:
    """The queries of one bandit. Thread-safe.

    Attributes:
        bytes_processed: by all queries so far.
    """

    def __init__(self, clients: GoogleClients) -> None:
        self._clients = clients
        self._counting = threading.Lock()
        self.bytes_processed = 0

    def run(self, what: str, sql: str, role: str = READER, **parameters: Parameter) -> Answer:
        """Run a query; `what` and `role` are for the error. Raises StoreError naming `what`, setting and role."""
        with explained(StoreError, what, self._clients.names, role):
            return self._answer(what, sql, parameters)

    def transact(self, what: str, sql: str, **parameters: Parameter) -> Answer:
        """Run a script with one transaction, again where another aborted it. Raises StoreError: nothing was changed."""
        from google.api_core.exceptions import GoogleAPICallError

        with explained(StoreError, what, self._clients.names, WRITER):
            for left in looks(_OVERTAKEN_FOR_S, 0.05, 5.0, jitter=True):
                try:
                    return self._answer(what, sql, parameters)
                except GoogleAPICallError as error:
                    if _ABORTED not in str(error) or not left:
                        raise
            raise AssertionError("unreachable")

    def statement_type(self, sql: str) -> str:
        """Ask what BigQuery takes the text for, e.g. "SELECT"; free. Raises what Google raises."""
        job = self._clients.bigquery.query(sql, job_config=self._config({}, dry_run=True), retry=_retry())
        return str(job.statement_type)

    def _answer(self, what: str, sql: str, parameters: dict[str, Parameter]) -> Answer:
        prefix = f"{self._clients.names.bandit_id}-{what.split()[0]}-"
        job = self._clients.bigquery.query(
            sql, job_config=self._config(parameters), job_id_prefix=prefix, retry=_retry(), timeout=60
        )
        # Not through the Storage API: it wants another role and gRPC endpoint for what is read once per window.
        rows = job.result(retry=_retry()).to_arrow(create_bqstorage_client=False)
        answer = Answer(rows, int(job.total_bytes_processed or 0))
        with self._counting:
            self.bytes_processed += answer.bytes_processed
        return answer

    def _config(self, parameters: dict[str, Parameter], dry_run: bool = False) -> QueryJobConfig:
        from google.cloud import bigquery

        names = self._clients.names
        return bigquery.QueryJobConfig(
            default_dataset=f"{names.project}.{names.dataset}",
            use_legacy_sql=False,
            use_query_cache=False,
            dry_run=dry_run,
            labels=names.labels,
            query_parameters=[_parameter(name, value) for name, value in parameters.items()],
        )


def _parameter(name: str, value: Parameter) -> Any:
    from google.cloud import bigquery

    if isinstance(value, tuple):
        return bigquery.ArrayQueryParameter(name, "STRING", list(value))
    if isinstance(value, Null):
        return bigquery.ScalarQueryParameter(name, value.type, None)
    return bigquery.ScalarQueryParameter(name, _TYPES[type(value)], value)


def _retry() -> Any:
    from google.cloud.bigquery.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_DEADLINE_S)
