"""Finds the rows of some events in the files that may hold them: few files for ids that ascend with time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.backends.local.store.delta.files import DataFile
from rl_core.backends.local.store.delta.table import DeltaTable
from rl_core.errors import StoreError


class ByEvent:
    """The rows of these events in one table."""

    def __init__(self, table: DeltaTable, event_ids: Collection[str]) -> None:
        self._table = table
        self._ids = sorted(event_ids)

    def rows(self, columns: list[str]) -> pa.Table:
        """Read the rows. Raises StoreError where a file can't be read."""
        parts = [self._of(file, columns) for file in self._table.files() if self._asked(file)]
        return pa.concat_tables(parts) if parts else self._table.open([]).to_table(columns=columns)

    def in_file(self, file: DataFile) -> bool:
        """Tell whether the file holds a row of these events."""
        return bool(self._asked(file)) and self._of(file, ["event_id"]).num_rows > 0

    def among(self, rows: pa.Table) -> pa.ChunkedArray:
        """Mark the rows that belong to these events."""
        return pc.is_in(rows["event_id"], value_set=pa.array(self._ids, pa.string()))

    def _asked(self, file: DataFile) -> Sequence[str]:
        low, high = file.low.get("event_id"), file.high.get("event_id")
        first = 0 if low is None else bisect_left(self._ids, low)
        return self._ids[first : len(self._ids) if high is None else bisect_right(self._ids, high)]

    def _of(self, file: DataFile, columns: list[str]) -> pa.Table:
        asked, event_id = self._asked(file), pc.field("event_id")
        near = (event_id >= asked[0]) & (event_id <= asked[-1])  # what the statistics of row groups are held against
        try:
            return self._table.open([file]).to_table(columns=columns, filter=near & event_id.isin(pa.array(asked)))
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"the event store can't be read: {' '.join(str(error).split())}") from error
