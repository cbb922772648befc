"""The quarantine: the rows of a run that broke a rule, in a Parquet file that is whole or absent."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from rl_core.files import replacing

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetWriter

QUARANTINE = "quarantine.parquet"


class Quarantine:
    """Writes `quarantine.parquet` into the folder `out` for the ingester; no file where nothing was added."""

    def __init__(self, out: Path) -> None:
        self.path = out / QUARANTINE
        self._writing = ExitStack()
        self._writer: ParquetWriter | None = None

    @property
    def address(self) -> str:
        """Where a person finds the file; Vertex AI mounts gs://bucket as /gcs/bucket."""
        return re.sub("^/gcs/", "gs://", str(self.path))

    def add(self, rows: pa.Table) -> None:
        """Append rows to the file; none begin no file."""
        from pyarrow.parquet import ParquetWriter

        if not rows.num_rows:
            return
        if self._writer is None:
            out = self._writing.enter_context(replacing(self.path))
            self._writer = self._writing.enter_context(ParquetWriter(out, rows.schema))
        self._writer.write_table(rows)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writing.close()  # what was set apart outlives a run that stops
