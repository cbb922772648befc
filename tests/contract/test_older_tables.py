"""Tables of before ids: their rows are read as they were, and what is written since stands beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from rl_core.backends.contracts.store import EventStore
from rl_core.backends.gcp.store import event_store as gcp_store
from rl_core.backends.gcp.store import tables
from rl_core.backends.gcp.store.event_store import BigQueryEventStore
from rl_core.backends.local.store import event_store as local_store
from rl_core.config import Bandit
from rl_core.schema import INTERACTION_SCHEMA, TABLES, Column, arrow_schema

if TYPE_CHECKING:
    from tests.contract.conftest import Backend, Rows

BACKENDS = ("local", "gcp")
ADDED, REQUIRED_THEN = {"eligible_action_ids"}, {"action", "eligible_actions"}


def as_they_were(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    kept = (column for column in columns if column.name not in ADDED)
    return tuple(replace(one, nullable=False) if one.name in REQUIRED_THEN else one for one in kept)


def of_then(rows: pa.Table, columns: tuple[Column, ...]) -> pa.Table:
    """The rows as a writer of before ids had them: with an index, and with indices."""
    schema, numbers = arrow_schema(as_they_were(columns)), range(rows.num_rows)
    rows = rows.select(schema.names)
    for name, values in (("action", numbers), ("eligible_actions", [[0, n] for n in numbers])):
        field = schema.field(name)
        rows = rows.set_column(schema.get_field_index(name), field, pa.array(values, field.type))
    return rows.cast(schema)


@pytest.fixture
def older(backend: Backend, monkeypatch: pytest.MonkeyPatch, rows: Rows) -> Callable[[], EventStore]:
    """Three decisions and three interactions in tables of before ids; opens them as today's code does."""
    with monkeypatch.context() as then:
        for name, columns in dict(TABLES).items():
            then.setitem(TABLES, name, as_they_were(columns))
        for name, kind in dict(tables.KINDS).items():
            then.setitem(tables.KINDS, name, replace(kind, columns=as_they_were(kind.columns)))
        for module in (local_store, gcp_store):
            then.setattr(module, "INTERACTION_SCHEMA", arrow_schema(TABLES["interactions"]))
        store = backend.open_store()
        store.append("decisions", of_then(rows.decisions(3), TABLES["decisions"]))
        store.append_interactions(of_then(rows.interactions(3), TABLES["interactions"]))

    def opened() -> EventStore:
        store = backend.open_store()
        if isinstance(store, BigQueryEventStore):
            tables.ensure_tables(store._clients)  # as the DAG …_provision does
        return store

    return opened


def test_are_read_as_they_were_and_take_rows_that_speak_ids(older: Callable[[], EventStore], rows: Rows) -> None:
    store, new = older(), rows.interactions(4, after=3)
    assert new["action"].null_count == 2
    store.append_interactions(new)
    then = of_then(rows.interactions(3), TABLES["interactions"]).to_pylist()
    expected = pa.Table.from_pylist(then, INTERACTION_SCHEMA)
    found = store.interactions((0, 7))
    assert found.equals(pa.concat_tables([expected, new]))
    assert found["eligible_action_ids"].null_count == 3 + new["eligible_action_ids"].null_count


def test_are_joined_with_decisions_that_speak_ids(
    backend: Backend, older: Callable[[], EventStore], rows: Rows, movielens: Bandit
) -> None:
    store, names = older(), pa.array([f"new-{n}" for n in range(4)])
    made, earned = (
        part.set_column(0, part.schema.field("event_id"), names)
        for part in (rows.decisions(4, "generator-1"), rows.rewards(4, "generator-1"))
    )
    earned = earned.set_column(3, earned.schema.field("activation"), pa.nulls(4, pa.bool_()))
    store.append("rewards", earned)
    store.append("decisions", made)
    backend.open_joiner(movielens).run(None)
    said = ["event_id", "action", "action_id", "eligible_actions", "eligible_action_ids"]
    closed = {row["event_id"]: row for row in store.interactions((3, store.head()), said).to_pylist()}
    expected = {row["event_id"]: {name: row[name] for name in said} for row in made.to_pylist() if row["served"]}
    assert closed == expected


def test_forget_a_row_of_then(older: Callable[[], EventStore], rows: Rows) -> None:
    store = older()
    (gone,) = rows.interactions(3)["event_id"].to_pylist()[1:2]
    assert store.forget([], [gone]).counts["interactions"] == 1
    assert store.interactions((1, 2), ["event_id", "action_id"]).to_pylist() == [
        {"event_id": "forgotten-2", "action_id": ""}
    ]


def test_let_null_what_may_be_null_now(backend: Backend, older: Callable[[], EventStore], rows: Rows) -> None:
    store = older()
    store.append_interactions(rows.interactions(1, after=3))
    nullable = {field.name: field.nullable for field in INTERACTION_SCHEMA}
    if isinstance(store, BigQueryEventStore):
        client = store._clients
        for name, kind in tables.KINDS.items():
            found = client.bigquery.get_table(client.names.table(name)).schema
            assert tables.up_to_date(found, kind.columns) == found, "there is nothing left to do"
        found = client.bigquery.get_table(client.names.table("interactions")).schema
        assert {field.name: field.mode == "NULLABLE" for field in found if field.mode != "REPEATED"} == {
            name: null for name, null in nullable.items() if not pa.types.is_list(INTERACTION_SCHEMA.field(name).type)
        }
    else:
        from deltalake import DeltaTable

        path = store._path / "interactions"  # type: ignore[attr-defined]
        assert {one.name: one.nullable for one in pa.schema(DeltaTable(path).schema().to_arrow())} == nullable
