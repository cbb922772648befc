-- How far each server's events have arrived. A heartbeat is met once the log holds every offset it tells, rejected
-- events included. Up to @watermark all heartbeats are known to be met, so that only what came later is counted.
DECLARE since TIMESTAMP;

SET since = (
  SELECT MIN(COALESCE(base_at, TIMESTAMP_SUB(first_at, INTERVAL 1 DAY)))
  FROM (
    SELECT
      MAX(IF(`at` <= @watermark, `at`, NULL)) AS base_at, MIN(`at`) AS first_at, MAX(`at`) AS heard_at
    FROM heartbeats WHERE producer <> 'bus-joiner' GROUP BY producer
  ) AS spans
  WHERE base_at IS NULL OR heard_at > base_at
);

WITH servers AS (
  SELECT
    producer,
    MAX(IF(`at` <= @watermark, decisions, 0)) AS base_decisions,
    MAX(IF(`at` <= @watermark, rewards, 0)) AS base_rewards
  FROM heartbeats GROUP BY producer
),
arrived AS (
  SELECT 'decision' AS kind, producer, `offset` FROM decisions WHERE received_at >= since
  UNION DISTINCT
  SELECT 'reward' AS kind, producer, `offset` FROM rewards WHERE received_at >= since
  UNION DISTINCT
  SELECT kind, producer, `offset` FROM rejected_events WHERE received_at >= since
),
beyond AS (
  SELECT a.kind, a.producer, a.`offset`, IF(a.kind = 'decision', s.base_decisions, s.base_rewards) AS base
  FROM arrived AS a JOIN servers AS s ON s.producer = a.producer
  WHERE a.`offset` > IF(a.kind = 'decision', s.base_decisions, s.base_rewards)
),
placed AS (
  SELECT kind, producer, `offset`, base + ROW_NUMBER() OVER (PARTITION BY kind, producer ORDER BY `offset`) AS place
  FROM beyond
),
reached AS (
  SELECT
    s.producer,
    COALESCE(MAX(IF(p.kind = 'decision' AND p.`offset` = p.place, p.`offset`, NULL)), ANY_VALUE(s.base_decisions))
      AS decisions,
    COALESCE(MAX(IF(p.kind = 'reward' AND p.`offset` = p.place, p.`offset`, NULL)), ANY_VALUE(s.base_rewards))
      AS rewards
  FROM servers AS s LEFT JOIN placed AS p ON p.producer = s.producer
  GROUP BY s.producer
)
SELECT
  h.producer,
  MAX(h.`at`) AS heard_at,
  LOGICAL_OR(COALESCE(h.ended, FALSE)) AS ended,
  MAX(IF(h.decisions <= r.decisions AND h.rewards <= r.rewards, h.`at`, NULL)) AS met_at,
  MIN(IF(h.decisions <= r.decisions AND h.rewards <= r.rewards, NULL, h.`at`)) AS unmet_since,
  MAX(h.decisions) AS decisions,
  MAX(h.rewards) AS rewards,
  MAX(r.decisions) AS stored_decisions,
  MAX(r.rewards) AS stored_rewards
FROM heartbeats AS h JOIN reached AS r ON r.producer = h.producer
GROUP BY h.producer
ORDER BY h.producer;
