"""Runs SQL over the local store, in DuckDB. What a query can't hold in memory goes to a folder beside the tables."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from rl_core.errors import StoreError

_SPILL = ".spill-"
_MEMORY = "1GB"
_LONGEST_QUERY_S = 3600.0


def answer(queries: Sequence[str], tables: Mapping[str, Any], folder: Path) -> list[pa.Table]:
    """Answer queries, all from the same tables.

    Args:
        tables: Arrow tables or datasets by the names that the queries use.

    Raises:
        StoreError: what is wrong with the query, or with a file.
    """
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET temp_directory = $1", [str(folder / f"{_SPILL}{uuid.uuid4().hex}")])
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute("SET TimeZone = 'UTC'; SET enable_external_access = false; SET threads = 2")
        for name, table in tables.items():
            connection.register(name, table)
        answers = []
        for sql in queries:
            try:
                result: Any = connection.sql(sql)
                if result is None:
                    raise StoreError(f"not a query: {sql[:80]!r}; the store is read with SELECT")
                answers.append(result.to_arrow_table())
            except duckdb.Error as error:
                raise StoreError(f"{' '.join(str(error).split())} (in {sql[:80]!r})") from error
    return answers


def sweep(folder: Path) -> None:
    """Remove what killed queries have left on disk."""
    for spilled in folder.glob(f"{_SPILL}*"):
        with suppress(FileNotFoundError):
            if time.time() - spilled.stat().st_mtime > _LONGEST_QUERY_S:
                shutil.rmtree(spilled)
