"""Deletes rows from the local store for good: one person's on request, or all of an age.

Interactions keep their seq as empty rows, so that windows stay without gap; nobody was served, so none of them trains.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rl_core.backends.contracts.store import Forgotten
from rl_core.backends.local.store.by_event import ByEvent
from rl_core.backends.local.store.checkpoint import Checkpoint, Offsets
from rl_core.backends.local.store.delta.table import DeltaTable

REJECTED = "rejected_events"
# Decisions and interactions tell whose an event is: they go last, so that a killed run finds the rest again. A decision
# goes before its interaction: a joiner that finds it alone would close it once more.
_ORDER = ("rewards", "activations", "rewards_apart", REJECTED, "decisions", "interactions")
_STAYS = {"seq", "policy_version", "observation_version", "action_set_version", "epsilon", "schema_version"}
_STAYS |= {"producer", "offset", "closed_at"}
_EMPTY: dict[pa.DataType, Any] = {
    pa.string(): "",
    pa.int32(): 0,
    pa.int64(): 0,
    pa.float64(): 0.0,
    pa.bool_(): False,
    pa.list_(pa.float32()): [],
    pa.list_(pa.int32()): [],
}


def find(tables: Mapping[str, DeltaTable], subjects: Collection[str], event_ids: Collection[str]) -> Forgotten:
    """Find what there is of the subjects and events, as event ids, seqs and counts by table."""
    rejected = [row["payload"] for row in _payloads(tables[REJECTED])]
    ids = {*event_ids, *(_event_id(text) for text in rejected if _mentions(text, subjects))} - {""}
    for name in ("decisions", "interactions") if subjects else ():
        whose = pc.field("subject").isin(pa.array(sorted(subjects), pa.string()))
        ids |= set(tables[name].dataset().to_table(columns=["event_id"], filter=whose)["event_id"].to_pylist())
    found = {
        name: ByEvent(tables[name], ids).rows(["seq"] if name == "interactions" else ["event_id"])
        for name in _ORDER
        if name != REJECTED
    }
    mentions = sum(_mentions(text, {*ids, *subjects}) for text in rejected)
    counts = {name: mentions if name == REJECTED else found[name].num_rows for name in sorted(_ORDER)}
    return Forgotten(tuple(sorted(ids)), tuple(sorted(found["interactions"]["seq"].to_pylist())), counts)


def forget(tables: Mapping[str, DeltaTable], found: Forgotten, subjects: Collection[str]) -> None:
    """Delete what was found; afterwards no older version of any table is left. Call under the joiner's lock."""
    for name in _ORDER:
        table = tables[name]
        with table.writing():
            if name == REJECTED:
                table.replace(
                    lambda rows: _without(rows, {*found.event_ids, *subjects}), lambda file: found is not None
                )
            elif found.counts[name]:
                asked = ByEvent(table, found.event_ids)
                change = _emptied_among if name == "interactions" else _left
                table.replace(partial(change, asked=asked), asked.in_file)
            table.purge()


def retire(tables: Mapping[str, DeltaTable], done: Checkpoint, before: datetime) -> dict[str, int]:
    """Delete raw rows received before a time and dealt with; return how many of each table.

    Call under the joiner's lock.
    """
    # What was set apart is deleted after the reward itself, which would else count as new.
    limits: dict[str, Offsets | None] = {
        "rewards": done.rewards,
        "rewards_apart": done.rewards,
        "activations": done.activations,
        "decisions": done.decisions,
        REJECTED: None,
    }
    gone = {}
    for name, limit in limits.items():
        table = tables[name]
        with table.writing():
            change = partial(_younger, before=before, limit=limit)
            gone[name] = table.replace(change, lambda file: file.may_hold("received_at", high=before))
    return gone


def _left(rows: pa.Table, asked: ByEvent) -> pa.Table:
    return rows.filter(pc.invert(asked.among(rows)))


def _emptied_among(rows: pa.Table, asked: ByEvent) -> pa.Table:
    hit = asked.among(rows)
    gone = rows.filter(hit)
    empty = pa.table([_emptied(gone, field) for field in rows.schema], schema=rows.schema)
    return pa.concat_tables([rows.filter(pc.invert(hit)), empty]).sort_by("seq")


def _emptied(gone: pa.Table, field: pa.Field) -> Any:
    if field.name in _STAYS:
        return gone[field.name]
    if field.name == "event_id":
        return pa.array([f"forgotten-{seq}" for seq in gone["seq"].to_pylist()], pa.string())
    if field.nullable:
        return pa.nulls(gone.num_rows, field.type)
    if pa.types.is_timestamp(field.type):
        return gone["closed_at"]
    value = {"closed_by": "forgotten", "propensity": 1.0}.get(field.name, _EMPTY.get(field.type))
    return pa.array([value] * gone.num_rows, field.type)


def _younger(rows: pa.Table, before: datetime, limit: Offsets | None) -> pa.Table | None:
    old = pc.less(rows["received_at"], pa.scalar(before, rows.schema.field("received_at").type))
    if limit is not None:
        place = pc.index_in(rows["producer"], value_set=pa.array(limit, pa.string()))
        last = pc.fill_null(pc.take(pa.array([*limit.values()], pa.int64()), place), 0)
        old = pc.and_(old, pc.less_equal(rows["offset"], last))
    return rows.filter(pc.invert(old)) if pc.any(old).as_py() else None


def _payloads(table: DeltaTable) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.dataset().to_table(columns=["payload"]).to_pylist()
    return rows


def _without(rows: pa.Table, words: Collection[str]) -> pa.Table | None:
    hit = pa.array([_mentions(text, words) for text in rows["payload"].to_pylist()], pa.bool_())
    return rows.filter(pc.invert(hit)) if pc.any(hit).as_py() else None


def _mentions(payload: str, words: Collection[str]) -> bool:
    """As event_id or subject; of what is not JSON, anywhere."""
    try:
        said = json.loads(payload)
        return said.get("event_id") in words or said.get("subject") in words
    except (ValueError, AttributeError, TypeError):
        return any(word in payload for word in words)


def _event_id(payload: str) -> str:
    try:
        return str(json.loads(payload).get("event_id") or "")
    except (ValueError, AttributeError):
        return ""
