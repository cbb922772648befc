-- The events of some subjects, and what the log holds of these and of the events named.
WITH meant AS (
  SELECT event_id FROM decisions WHERE subject IN UNNEST(@subjects)
  UNION DISTINCT
  SELECT event_id FROM interactions WHERE subject IN UNNEST(@subjects)
  UNION DISTINCT
  SELECT event_id FROM UNNEST(@event_ids) AS event_id
),
held AS (
  SELECT event_id, 'decisions' AS place, CAST(NULL AS INT64) AS seq FROM decisions
  UNION ALL
  SELECT event_id, 'rewards' AS place, CAST(NULL AS INT64) AS seq FROM rewards
  UNION ALL
  SELECT event_id, 'activations' AS place, CAST(NULL AS INT64) AS seq FROM activations
  UNION ALL
  SELECT event_id, 'rewards_apart' AS place, CAST(NULL AS INT64) AS seq FROM rewards_apart
  UNION ALL
  SELECT event_id, 'interactions' AS place, seq FROM interactions
)
SELECT m.event_id, h.place, h.seq
FROM meant AS m LEFT JOIN held AS h ON h.event_id = m.event_id
UNION ALL
SELECT CAST(NULL AS STRING) AS event_id, 'rejected_events' AS place, CAST(NULL AS INT64) AS seq
FROM rejected_events AS r
WHERE EXISTS (SELECT 1 FROM UNNEST(@quoted) AS word WHERE STRPOS(r.payload, word) > 0)
