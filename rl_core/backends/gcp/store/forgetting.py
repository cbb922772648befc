"""Deletes one person's rows from the log in BigQuery, in one transaction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from rl_core.backends.contracts.store import Forgotten
from rl_core.backends.gcp.store.queries import Queries, sql_file
from rl_core.errors import StoreError
from rl_core.schema import INTERACTION, Column

_PART = 5_000  # ids of one transaction: a request may be 10 MB long
# https://cloud.google.com/bigquery/docs/reference/standard-sql/data-manipulation-language#limitations
_BUFFERED = "streaming buffer"
_STAYS = {"seq", "policy_version", "observation_version", "action_set_version", "epsilon", "schema_version"}
_STAYS |= {"producer", "offset", "closed_at"}
_SET = {"event_id": "CONCAT('forgotten-', CAST(seq AS STRING))", "closed_by": "'forgotten'", "propensity": "1.0"}
_EMPTY = {
    "string": "''",
    "int32": "0",
    "int64": "0",
    "float64": "0.0",
    "bool": "FALSE",
    "timestamp": "closed_at",
    "float32[]": "[]",
    "int32[]": "[]",
    "string[]": "[]",
}


def find(queries: Queries, subjects: Sequence[str], event_ids: Sequence[str]) -> Forgotten:
    """Find what there is of the subjects and events, as event ids, seqs and counts by table."""
    quoted = tuple(json.dumps(word, ensure_ascii=False) for word in (*subjects, *event_ids))
    sql = sql_file("forget_find")
    rows = queries.run("forget", sql, subjects=tuple(subjects), event_ids=tuple(event_ids), quoted=quoted).rows
    found = rows.to_pylist()
    counts = Counter(row["place"] for row in found if row["place"] is not None)
    ids = {row["event_id"] for row in found} - {None}
    seqs = sorted(row["seq"] for row in found if row["seq"] is not None)
    names = ("activations", "decisions", "interactions", "rejected_events", "rewards", "rewards_apart")
    return Forgotten(tuple(sorted(ids)), tuple(seqs), {name: counts[name] for name in names})


def forget(queries: Queries, found: Forgotten, subjects: Sequence[str]) -> None:
    """Delete what was found. Raises StoreError: nothing of the part at hand was changed; run it again."""
    emptied = ", ".join(f"`{column.name}` = {_empty(column)}" for column in INTERACTION if column.name not in _STAYS)
    sql = sql_file("forget", emptied=emptied)
    # The subjects' decisions are found by the subject: it goes with the last part.
    for start in range(0, max(1, len(found.event_ids)), _PART):
        ids = found.event_ids[start : start + _PART]
        quoted = tuple(json.dumps(word, ensure_ascii=False) for word in (*ids, *subjects))
        try:
            queries.transact("forget", sql, event_ids=ids, quoted=quoted)
        except StoreError as error:
            if _BUFFERED in str(error):
                raise StoreError(
                    "some of these rows were streamed into BigQuery within the last 30 minutes (rarely 90), and until "
                    f"then can't be changed; nothing of them is forgotten yet: try again in half an hour ({error})"
                ) from error
            raise


def _empty(column: Column) -> str:
    if column.name in _SET:
        return _SET[column.name]
    return "NULL" if column.nullable and not column.type.endswith("[]") else _EMPTY[column.type]
