"""The dataset with its tables; which ones, tables.py says."""

from __future__ import annotations

from typing import Any

from rl_core.backends.contracts.backend import Part
from rl_core.backends.gcp.provisioning.resource import Found, Site
from rl_core.backends.gcp.store import tables


class Dataset:
    """The dataset with its tables; tables that we made in a dataset that was there before go without it."""

    part: Part = "storage"
    role = "roles/bigquery.dataOwner and roles/bigquery.jobUser on the project"

    def __init__(self, site: Site) -> None:
        self._site = site

    def describe(self) -> str:
        return f"dataset {self._site.names.dataset} with its tables"

    def exists(self) -> Found:
        dataset = self._look()
        if dataset is None:
            return Found.ABSENT
        if tables.missing_tables(self._site.clients) or self._columns_differ():
            return Found.STALE
        return self._site.owner(dataset.labels)

    def create(self) -> None:
        tables.ensure_tables(self._site.clients)

    def delete(self) -> Found:
        dataset = self._look()
        if dataset is None:
            return Found.ABSENT
        if self._site.owner(dataset.labels) is Found.OURS:
            tables.drop(self._site.clients)
            return Found.OURS
        client = self._site.clients.bigquery
        for table in client.list_tables(dataset.reference):
            if self._site.owner(table.labels) is Found.OURS:
                client.delete_table(table.reference, not_found_ok=True)
        return Found.FOREIGN

    def _columns_differ(self) -> bool:
        """Whether a table is from before a column was added, or was let be null."""
        for name, kind in tables.KINDS.items():
            found = self._site.clients.bigquery.get_table(self._site.names.table(name))
            if tables.up_to_date(found.schema, kind.columns) != found.schema:
                return True
        return False

    def _look(self) -> Any:
        from google.cloud.exceptions import NotFound

        try:
            return self._site.clients.bigquery.get_dataset(self._site.names.dataset)
        except NotFound:
            return None
