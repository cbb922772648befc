-- How far each server's events have arrived. A heartbeat is met once the log holds every offset it tells, rejected
-- events included. Up to @watermark all heartbeats are known to be met, so that only what came later is counted.
--
-- And how far delivery works, for servers of which no heartbeat says it: up to our own newest one that came promptly.
-- After an outage what comes first need not be what was sent first; a pause of all heartbeats, or one that came late,
-- makes it the newest that was prompt and @silent_us before that one, until all has been well for so long again. Both are
-- measured by the clocks of Pub/Sub and of the logger, which are Google's.
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
  SELECT 'reward' AS kind, producer, `offset` FROM activations WHERE received_at >= since
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
),
heard AS (
  SELECT
    producer, `at`,
    UNIX_MICROS(MIN(COALESCE(published_at, `at`))) AS sent_us,
    UNIX_MICROS(MIN(COALESCE(stored_at, published_at, `at`))) AS stored_us
  FROM heartbeats GROUP BY producer, `at`
),
paced AS (
  SELECT
    producer, `at`, sent_us, stored_us, stored_us - sent_us <= @prompt_us AS prompt,
    sent_us - LAG(sent_us) OVER (ORDER BY sent_us) > @silent_us AS resumes
  FROM heard
),
course AS (
  SELECT
    MAX(IF(producer = 'bus-joiner' AND prompt, sent_us, NULL)) AS newest_us,
    MAX(IF(prompt, IF(resumes, sent_us, NULL), stored_us)) AS troubled_us
  FROM paced
),
delivery AS (
  SELECT MAX(LEAST(p.`at`, TIMESTAMP_MICROS(p.sent_us))) AS delivered_at
  FROM paced AS p CROSS JOIN course AS c
  WHERE p.producer = 'bus-joiner' AND p.prompt
    AND (p.sent_us <= c.newest_us - @silent_us OR COALESCE(c.newest_us - c.troubled_us >= @silent_us, TRUE))
)
SELECT
  h.producer,
  MAX(COALESCE(h.published_at, h.`at`)) AS heard_at,
  ANY_VALUE(d.delivered_at) AS delivered_at,
  LOGICAL_OR(COALESCE(h.ended, FALSE)) AS ended,
  MAX(IF(h.decisions <= r.decisions AND h.rewards <= r.rewards, h.`at`, NULL)) AS met_at,
  MIN(IF(h.decisions <= r.decisions AND h.rewards <= r.rewards, NULL, h.`at`)) AS unmet_since,
  MAX(h.decisions) AS decisions,
  MAX(h.rewards) AS rewards,
  MAX(r.decisions) AS stored_decisions,
  MAX(r.rewards) AS stored_rewards
FROM heartbeats AS h JOIN reached AS r ON r.producer = h.producer CROSS JOIN delivery AS d
GROUP BY h.producer
ORDER BY h.producer;
