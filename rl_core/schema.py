"""The columns of the log's tables. Arrow, Delta, BigQuery and OpenAPI schemas are derived from the tuples below.

Columns are only ever added, and added nullable; one that was required may become nullable, never the other way. All
times are UTC with microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 1
UNIFORM = "uniform"
"""The policy_version of what no registry holds: the generator's choices, and a server's before the first policy."""

Type = Literal["string", "int32", "int64", "float64", "bool", "timestamp", "float32[]", "int32[]", "string[]", "map"]

ARROW_TYPES: dict[Type, pa.DataType] = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "float32[]": pa.list_(pa.float32()),
    "int32[]": pa.list_(pa.int32()),
    "string[]": pa.list_(pa.string()),
    "map": pa.map_(pa.string(), pa.string()),
}


@dataclass(frozen=True)
class Column:
    """One column of the log: its name, its type, what it holds, and whether it may be null."""

    name: str
    type: Type
    doc: str
    nullable: bool = False


_STAMP = (
    Column("received_at", "timestamp", "when the bus accepted it; stamped by the bus, never by a client"),
    Column("producer", "string", "the bus or the job that accepted the event"),
    Column("offset", "int64", "gap-free position within (producer, topic), from 1"),
)

DECISION = (
    Column("event_id", "string", "the client's idempotency key, or a UUIDv7 given by the server"),
    Column("decided_at", "timestamp", "when the policy chose"),
    Column("policy_version", "string", "the policy that chose; 'uniform' before anything was learnt"),
    Column("observation", "float32[]", "[observation_dim], as sent"),
    Column("observation_version", "string", "how observations of this kind are made"),
    Column("action_id", "string", "the stable id of the action"),
    Column("action", "int32", "its index within action_set_version, in logs of before ids; null since", nullable=True),
    Column("action_set_version", "string", "the list of actions that was in force, named with a digest of it"),
    Column("eligible_actions", "int32[]", "in logs of before eligible_action_ids: the same as indices", nullable=True),
    Column("propensity", "float64", "exact probability of this action under the behaviour policy; in (0, 1]"),
    Column("epsilon", "float64", "the uniform floor in force"),
    Column("seed_stream", "string", "names the random stream of the draw", nullable=True),
    Column("source", "string", "who asked: 'client', 'simulator', 'generator', 'import'"),
    Column("served", "bool", "false for shadow rows, which never train"),
    Column("rollout_stage", "string", "e.g. 'canary'", nullable=True),
    Column("schema_version", "int32", "SCHEMA_VERSION of the writer"),
    Column("policy_info", "map", "free text the policy adds", nullable=True),
    Column(
        "deferred", "bool", "trains only if it was activated: its client says that the answer was used", nullable=True
    ),
    Column("subject", "string", "whose data it is; what is forgotten on request goes by it", nullable=True),
    Column("features", "string", "the named features as sent, a JSON object; observation is empty then", nullable=True),
    Column(
        "eligible_action_ids",
        "string[]",
        "ids of the actions that could have been chosen; null or empty: all that action_set_version has active",
        nullable=True,
    ),
    *_STAMP,
)

REWARD = (
    Column("event_id", "string", "the decision it belongs to"),
    Column("reward", "float64", "within reward_min..reward_max"),
    Column("observed_at", "timestamp", "when the world produced it"),
    Column("activation", "bool", "true in logs of before 'activations': none, it is an activation", nullable=True),
    *_STAMP,
)

ACTIVATION = (
    Column("event_id", "string", "the deferred decision whose answer was used"),
    Column("observed_at", "timestamp", "when the server heard of it"),
    *_STAMP,
)

INTERACTION = (
    Column("seq", "int64", "gap-free, from 1, given when the row is appended"),
    *DECISION,
    Column("reward", "float64", "the reward, or reward_default"),
    Column("reward_observed_at", "timestamp", "null where the reward is the default", nullable=True),
    Column("reward_received_at", "timestamp", "null where the reward is the default", nullable=True),
    Column(
        "closed_by",
        "string",
        "'reward', 'timeout', 'unactivated' (served is false then), or 'forgotten' (nothing else is left of it)",
    ),
    Column("closed_at", "timestamp", "when the joiner closed it"),
)

REWARD_APART = (
    *REWARD,
    Column("reason", "string", "'duplicate', 'late' or 'unknown'; 'activation' in logs of before 'activations'"),
)

HEARTBEAT = (
    Column("producer", "string", "who accepted the events; 'bus-joiner' accepts none and shows how far delivery works"),
    Column("decisions", "int64", "the last decision it had acknowledged before `at`, 0 if none"),
    Column("rewards", "int64", "the last reward it had acknowledged before `at`, 0 if none"),
    Column("at", "timestamp", "what it accepts from now on has received_at >= at"),
    Column("ended", "bool", "it accepts nothing more under this name: satisfied, it holds no watermark", nullable=True),
    Column("published_at", "timestamp", "when Pub/Sub took it, by Pub/Sub's clock", nullable=True),
    Column("stored_at", "timestamp", "when the logger function got hold of it", nullable=True),
)

REJECTED_EVENT = (
    Column("kind", "string", "'decision', 'reward' or 'heartbeat', or whatever the message said"),
    *_STAMP,
    Column("payload", "string", "the message as it came"),
    Column("reason", "string", "why it can't be a row of the log"),
)

COMPLETION = (
    Column("producer", "string", "the job that has appended all its decisions and their rewards"),
    Column("decisions", "int64", "the last of its decisions that this is said of"),
    Column("completed_at", "timestamp", "when the job said so"),
)

TABLES = {
    "decisions": DECISION,
    "rewards": REWARD,
    "activations": ACTIVATION,
    "interactions": INTERACTION,
    "rewards_apart": REWARD_APART,
}


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """Derive the Arrow schema of a table."""
    return pa.schema([pa.field(c.name, ARROW_TYPES[c.type], nullable=c.nullable) for c in columns])


DECISION_SCHEMA = arrow_schema(DECISION)
REWARD_SCHEMA = arrow_schema(REWARD)
ACTIVATION_SCHEMA = arrow_schema(ACTIVATION)
INTERACTION_SCHEMA = arrow_schema(INTERACTION)
REWARD_APART_SCHEMA = arrow_schema(REWARD_APART)
REJECTED_EVENT_SCHEMA = arrow_schema(REJECTED_EVENT)
COMPLETION_SCHEMA = arrow_schema(COMPLETION)

BigQueryField = dict[str, str]
"""A TableFieldSchema of BigQuery's REST API: name, type, mode, description."""

# BigQuery has no float32 and no int32: wider types hold them exactly. A repeated field can't be null, so a map is JSON
# text, which keeps null, empty and the order of the keys apart.
_BIGQUERY_TYPES: dict[Type, str] = {
    "string": "STRING",
    "int32": "INTEGER",
    "int64": "INTEGER",
    "float64": "FLOAT",
    "bool": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    "float32[]": "FLOAT",
    "int32[]": "INTEGER",
    "string[]": "STRING",
    "map": "STRING",
}


def bigquery_schema(columns: tuple[Column, ...]) -> list[BigQueryField]:
    """Derive the BigQuery schema of a table, as fields of the REST API."""
    return [
        {"name": c.name, "type": _BIGQUERY_TYPES[c.type], "mode": _bigquery_mode(c), "description": _said(c)}
        for c in columns
    ]


def _bigquery_mode(column: Column) -> str:
    if column.type.endswith("[]"):
        return "REPEATED"
    return "NULLABLE" if column.nullable else "REQUIRED"


def _said(column: Column) -> str:
    return f"{column.doc}; a JSON object of strings" if column.type == "map" else column.doc
