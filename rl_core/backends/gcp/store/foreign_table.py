"""Reads a table that is none of ours, by listing it: no query, no job, nothing billed, and one role on it is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rl_core.errors import StoreError
from rl_core.google_cloud.failures import explained

if TYPE_CHECKING:
    import pyarrow as pa

    from rl_core.google_cloud.clients import GoogleClients

ROLE = "roles/bigquery.dataViewer on the table"
_DEADLINE_S = 120.0  # of one page, its repetitions included


def read(clients: GoogleClients, place: str) -> pa.Table:
    """Read all rows of `project.dataset.table`. Raises StoreError naming table and role."""
    from google.api_core.exceptions import NotFound
    from google.cloud.bigquery.retry import DEFAULT_RETRY

    retry = DEFAULT_RETRY.with_timeout(_DEADLINE_S)
    with explained(StoreError, f"read {place}", clients.names, ROLE):
        try:
            table = clients.bigquery.get_table(place, retry=retry, timeout=30)
        except NotFound as error:
            raise StoreError(f"{place}: there is no such table; a table is project.dataset.table") from error
        if table.table_type not in ("TABLE", "SNAPSHOT"):
            kind = table.table_type.lower().replace("_", " ")
            raise StoreError(f"{place} is a {kind}, which can't be listed; copy what it shows into a table")
        rows = clients.bigquery.list_rows(table, retry=retry, timeout=60)
        return rows.to_arrow(create_bqstorage_client=False)
