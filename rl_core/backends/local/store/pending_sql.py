"""The queries behind `EventStore.pending`, in DuckDB's dialect."""

from __future__ import annotations

from rl_core.backends.local.store.checkpoint import Checkpoint

DECISIONS = """
SELECT d.* FROM decisions d
WHERE d.served AND NOT EXISTS (SELECT 1 FROM interactions i WHERE i.event_id = d.event_id)
ORDER BY d.producer, d."offset"
"""

ACTIVATIONS = """
SELECT a.* FROM activations a
WHERE NOT EXISTS (SELECT 1 FROM interactions i WHERE i.event_id = a.event_id)
ORDER BY a.producer, a."offset"
"""

OPEN = """
SELECT d.producer, count(DISTINCT d.event_id) AS count, min(d.received_at) AS since FROM decisions d
WHERE d.served AND NOT EXISTS (SELECT 1 FROM interactions i WHERE i.event_id = d.event_id)
GROUP BY d.producer ORDER BY d.producer
"""

# An interaction doesn't name the reward it was closed by: it is the first of those that look like it and are not set
# apart. Two that look alike in every value are interchangeable. No interaction is closed by an activation, nor by a
# reward that came after it was noted as closed: it would pass for the one that did, which is not looked at any more.
_REWARDS = """
WITH here AS (
    SELECT r.* FROM rewards r
    WHERE NOT EXISTS (SELECT 1 FROM rewards_apart a WHERE a.producer = r.producer AND a."offset" = r."offset")
), used AS (
    SELECT h.producer, h."offset" FROM here h JOIN interactions i
    ON i.event_id = h.event_id AND i.reward_received_at = h.received_at
        AND i.reward_observed_at = h.observed_at AND i.reward = h.reward AND NOT coalesce(h.activation, false)
        AND {was_known}
    QUALIFY row_number() OVER (PARTITION BY h.event_id ORDER BY h.producer, h."offset") = 1
)
SELECT h.* FROM here h
WHERE NOT EXISTS (SELECT 1 FROM used u WHERE u.producer = h.producer AND u."offset" = h."offset")
ORDER BY h.producer, h."offset"
"""


def rewards(done: Checkpoint | None) -> str:
    """Write the query for rewards neither used nor set apart, beyond the checkpoint where there is one."""
    if done is None:
        return _REWARDS.format(was_known="true")
    read = " ".join(f"WHEN {quoted(producer)} THEN {offset}" for producer, offset in done.read.items())
    known = f"CASE h.producer {read} ELSE 0 END" if read else "0"
    return _REWARDS.format(was_known=f'(i.seq > {done.head} OR h."offset" <= {known})')


def quoted(text: str) -> str:
    """Quote a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def offsets(table: str) -> str:
    return f'SELECT producer, max("offset") AS last FROM {table} GROUP BY producer'  # noqa: S608
