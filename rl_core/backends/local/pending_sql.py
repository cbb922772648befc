"""The queries behind `EventStore.pending`, in DuckDB's dialect."""

DECISIONS = """
SELECT d.* FROM decisions d
WHERE d.served AND NOT EXISTS (SELECT 1 FROM interactions i WHERE i.event_id = d.event_id)
ORDER BY d.producer, d."offset"
"""

# An interaction doesn't name the reward it was closed by: it is the first of those that look like it and are not set
# apart. Two that look alike in every value are interchangeable. No interaction is closed by an activation.
REWARDS = """
WITH here AS (
    SELECT r.* FROM rewards r
    WHERE NOT EXISTS (SELECT 1 FROM rewards_apart a WHERE a.producer = r.producer AND a."offset" = r."offset")
), used AS (
    SELECT h.producer, h."offset" FROM here h JOIN interactions i
    ON i.event_id = h.event_id AND i.reward_received_at = h.received_at
        AND i.reward_observed_at = h.observed_at AND i.reward = h.reward AND NOT coalesce(h.activation, false)
    QUALIFY row_number() OVER (PARTITION BY h.event_id ORDER BY h.producer, h."offset") = 1
)
SELECT h.* FROM here h
WHERE NOT EXISTS (SELECT 1 FROM used u WHERE u.producer = h.producer AND u."offset" = h."offset")
ORDER BY h.producer, h."offset"
"""

OFFSETS = (
    'SELECT producer, max("offset") AS last FROM decisions GROUP BY producer',
    'SELECT producer, max("offset") AS last FROM rewards GROUP BY producer',
)
