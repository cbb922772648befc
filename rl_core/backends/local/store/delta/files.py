"""Data files of a Delta table: written to disk before a commit names them, chosen by the statistics that it keeps.

The least and greatest values of some columns bound what a file may hold; without them it may hold anything.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from deltalake import DeltaTable as Handle
    from deltalake.transaction import AddAction

ROW_GROUP = 16_384  # a window reads whole row groups
_BY_ROW = ("seq", "event_id", "offset", "reward")  # with a value of its own in almost every row
_BY = ("seq", "event_id", "producer", "offset", "received_at")  # what files are chosen by


@dataclass(frozen=True)
class DataFile:
    """One file that the table's latest version is made of."""

    path: str
    size: int
    rows: int
    low: Mapping[str, Any]
    high: Mapping[str, Any]

    def may_hold(self, column: str, low: Any = None, high: Any = None) -> bool:
        """Tell whether a value of the column may lie in low..high; None leaves a side open."""
        least, greatest = self.low.get(column), self.high.get(column)
        if low is not None and greatest is not None and greatest < low:
            return False
        return not (high is not None and least is not None and least > high)

    def only(self, column: str) -> Any:
        """Return the one value of the column, None if it has several or if that is not known."""
        value = self.low.get(column)
        return value if value is not None and value == self.high.get(column) else None


def files_of(table: Handle) -> list[DataFile]:
    """Return the files of the version that the handle stands at, in the order of their seq or offset."""
    columns: dict[str, list[Any]] = pa.table(table.get_add_actions(flatten=True)).to_pydict()
    lows = {name[4:]: values for name, values in columns.items() if name.startswith("min.")}
    highs = {name[4:]: values for name, values in columns.items() if name.startswith("max.")}
    found = [
        DataFile(
            columns["path"][i],
            columns["size_bytes"][i],
            columns["num_records"][i] or 0,
            {name: values[i] for name, values in lows.items()},
            {name: values[i] for name, values in highs.items()},
        )
        for i in range(len(columns["path"]))
    ]
    return sorted(found, key=_place)


def write(folder: Path, rows: pa.Table, data_change: bool = True) -> AddAction:
    """Write a new file below `folder`, on disk when this returns; return what a commit says of it."""
    from deltalake.transaction import AddAction
    from pyarrow import parquet

    name = f"part-{uuid.uuid4()}.parquet"
    try:
        with (folder / name).open("wb") as file:
            parquet.write_table(rows, file, compression="snappy", row_group_size=ROW_GROUP, **_encodings(rows.schema))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
    except BaseException:  # the disk is full, say: what is half done takes no room
        (folder / name).unlink(missing_ok=True)
        raise
    low, high = {}, {}
    for column in _BY:
        if column in rows.column_names and rows.num_rows:
            ends = pc.min_max(rows[column]).as_py()
            low[column], high[column] = _said(ends["min"]), _said(ends["max"], up=True)
    for field in rows.schema:  # other integer columns come cheap
        if pa.types.is_integer(field.type) and field.name not in low and rows.num_rows:
            ends = pc.min_max(rows[field.name]).as_py()
            if ends["min"] is not None:
                low[field.name], high[field.name] = ends["min"], ends["max"]
    stats = json.dumps({"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": {}})
    return AddAction(name, size, {}, time.time_ns() // 1_000_000, data_change, stats)


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """Choose how columns are encoded: a dictionary of values of which each is there once costs time and room."""
    floats = [f"{one.name}.list.element" for one in schema if one.type == pa.list_(pa.float32())]
    repeated = [
        f"{one.name}.list.element" if pa.types.is_list(one.type) else one.name
        for one in schema
        if one.name not in _BY_ROW and not pa.types.is_timestamp(one.type)
    ]
    return {
        "use_dictionary": [name for name in repeated if name not in floats],
        "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    }


def whole(path: Path, size: int | None = None) -> bool:
    """Tell whether the file is there in its length, and its footer can be read."""
    from pyarrow import parquet

    try:
        if size is not None and path.stat().st_size != size:
            return False
        parquet.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True


def unused(folder: Path, files: list[DataFile], older_than: timedelta) -> Iterator[Path]:
    """Yield data files that no longer count, or never did, and were not touched since."""
    kept = {file.path for file in files}
    before = time.time() - older_than.total_seconds()
    for path in folder.glob("*.parquet"):
        if path.name not in kept and path.stat().st_mtime <= before:
            yield path


def _place(file: DataFile) -> tuple[Any, ...]:
    if file.low.get("seq") is not None:
        return (file.low["seq"],)
    return (str(file.low.get("producer")), file.low.get("offset") or 0, file.path)


def _said(value: Any, up: bool = False) -> Any:
    """As the log's JSON holds it. Delta's statistics of times go by milliseconds: round outwards."""
    if isinstance(value, datetime):
        cut = value.replace(microsecond=value.microsecond // 1000 * 1000)
        if up and cut != value:
            cut += timedelta(milliseconds=1)
        return cut.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value
