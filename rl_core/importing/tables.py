"""A table of BigQuery as a file to be imported: `bq://project.dataset.table`, as Vertex AI writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from rl_core.backends import open_backend
from rl_core.config import Bandit, Settings
from rl_core.errors import ConfigError, DataError

_TABLE = re.compile(r"bq://([a-z][a-z0-9-]{4,28}[a-z0-9])\.(\w{1,1024})\.([^.`]{1,1024})")


def project_of(source: str) -> str | None:
    """Return the project of a table; None: it is a file. Raises ConfigError where it begins like a table only."""
    if not source.startswith("bq:"):
        return None
    if (found := _TABLE.fullmatch(source)) is None:
        raise ConfigError(f"{source}: a table is bq://project.dataset.table")
    return found[1]


@contextmanager
def as_file(bandit: Bandit, settings: Settings, source: str) -> Iterator[Path]:
    """Give a file as it is, a table as a Parquet file that is gone afterwards; errors name what was given.

    BigQuery keeps no order: rows are ordered by their columns of time, then by the others, so that the same table is
    the same file.

    Raises:
        ConfigError: the bandit's backend reads no tables.
        StoreError: the table can't be read, naming the role.
    """
    if project_of(source) is None:
        yield Path(source)
        return
    from pyarrow import parquet

    backend = open_backend(bandit, settings)
    try:
        rows = backend.read_table(source.removeprefix("bq://"))
    finally:
        backend.close()
    with TemporaryDirectory(prefix="banditloop-") as folder:
        path = Path(folder) / "table.parquet"
        parquet.write_table(_in_order(rows), path)
        del rows
        try:
            yield path
        except DataError as error:
            raise DataError(str(error).replace(str(path), source)) from error


def _in_order(rows: pa.Table) -> pa.Table:
    flat = [field for field in rows.schema if not pa.types.is_nested(field.type)]
    keys = sorted(flat, key=lambda field: not pa.types.is_temporal(field.type))
    return rows.sort_by([(field.name, "ascending") for field in keys]) if keys else rows
