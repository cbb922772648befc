-- One run of the joiner: the rules of rl_core/backends/local/joining/rules.py in one transaction.
--
-- Reads, of decisions (all columns), rewards, activations and rewards_apart, what was received since @open_from: before it everything
-- has been dealt with. Of interactions, the event_ids between the smallest and the largest that it asks for: the table
-- is clustered by event_id, and ids that ascend with time lie in few blocks.
DECLARE first_id, last_id STRING;
DECLARE closing, remaining, apart INT64;
DECLARE still_open, still_waiting, still_early, rewarded_from TIMESTAMP;

BEGIN TRANSACTION;

ASSERT (SELECT COUNT(*) FROM joiner WHERE revision = @revision) = 1 AS '$overtaken';

-- Served decisions, once each: of several under one event_id the first by (received_at, producer, offset).
CREATE TEMP TABLE made AS
SELECT *
FROM decisions
WHERE received_at >= @open_from AND served
QUALIFY ROW_NUMBER() OVER (PARTITION BY event_id ORDER BY received_at, producer, `offset`) = 1;

-- Rewards that are not set apart, once each.
CREATE TEMP TABLE earned AS
SELECT r.*
FROM rewards AS r
WHERE r.received_at >= @open_from AND NOT COALESCE(r.activation, FALSE) AND NOT EXISTS (
  SELECT 1 FROM rewards_apart AS a
  WHERE a.received_at >= @open_from AND a.producer = r.producer AND a.`offset` = r.`offset`
)
QUALIFY ROW_NUMBER() OVER (PARTITION BY r.producer, r.`offset` ORDER BY r.received_at) = 1;

-- Activations: logs of before their table have some among the rewards.
CREATE TEMP TABLE activated AS
SELECT event_id, received_at, producer FROM activations WHERE received_at >= @open_from
UNION ALL
SELECT event_id, received_at, producer FROM rewards WHERE received_at >= @open_from AND COALESCE(activation, FALSE);

CREATE TEMP TABLE asked AS
SELECT event_id FROM made
UNION DISTINCT
SELECT event_id FROM earned
UNION DISTINCT
SELECT event_id FROM activated;

SET (first_id, last_id) = (SELECT AS STRUCT MIN(event_id) AS first_id, MAX(event_id) AS last_id FROM asked);

CREATE TEMP TABLE closed AS
SELECT event_id, decided_at, received_at, closed_by, reward, reward_observed_at, reward_received_at
FROM interactions
WHERE event_id BETWEEN first_id AND last_id
  AND event_id IN (SELECT event_id FROM asked);

-- What each reward is to its event. An interaction doesn't name the reward it was closed by: it is the first of those
-- that look like it; two that look alike in every value are interchangeable.
CREATE TEMP TABLE judged AS
WITH unused AS (
  SELECT e.*
  FROM earned AS e
  LEFT JOIN closed AS c
    ON c.event_id = e.event_id AND c.closed_by = 'reward' AND c.reward = e.reward
    AND c.reward_received_at = e.received_at AND c.reward_observed_at = e.observed_at
  WHERE TRUE
  QUALIFY c.event_id IS NULL
    OR ROW_NUMBER() OVER (PARTITION BY c.event_id ORDER BY e.producer, e.`offset`) > 1
),
timed AS (
  SELECT
    u.*,
    m.event_id IS NOT NULL AND c.event_id IS NULL AS is_open,
    c.closed_by,
    UNIX_MICROS(COALESCE(c.received_at, m.received_at)) - UNIX_MICROS(u.received_at) > @wait_us AS too_early,
    UNIX_MICROS(u.received_at) - UNIX_MICROS(COALESCE(c.decided_at, m.decided_at)) <= @wait_us
      AND UNIX_MICROS(COALESCE(c.received_at, m.received_at)) - UNIX_MICROS(u.received_at) <= @wait_us AS on_time,
    STARTS_WITH(u.producer, 'bus-') AND COALESCE(u.received_at < @given_up_before, FALSE) AS given_up
  FROM unused AS u
  LEFT JOIN closed AS c ON c.event_id = u.event_id
  LEFT JOIN made AS m ON m.event_id = u.event_id
)
SELECT
  event_id, reward, observed_at, activation, received_at, producer, `offset`, is_open, closed_by, too_early, on_time,
  MIN(IF(given_up, 1, 0)) OVER (PARTITION BY event_id) = 1 AS unknown,
  ROW_NUMBER() OVER (PARTITION BY event_id, on_time ORDER BY producer, `offset`) AS place
FROM timed;

-- Jobs that have begun to reward, however long ago: looked for only where a job's decision waits without a reward.
SET rewarded_from = (
  SELECT IF(COUNT(*) > 0, TIMESTAMP '1970-01-01 00:00:00+00', TIMESTAMP '9999-12-31 00:00:00+00')
  FROM made AS m
  LEFT JOIN closed AS c ON c.event_id = m.event_id
  LEFT JOIN judged AS j ON j.event_id = m.event_id
  WHERE NOT STARTS_WITH(m.producer, 'bus-') AND c.event_id IS NULL AND j.event_id IS NULL
);
CREATE TEMP TABLE rewarding AS
SELECT DISTINCT producer FROM rewards WHERE received_at >= rewarded_from;

-- Open decisions, and whether their time has come. A job's decision closes at its reward, whenever that came; without
-- one when the job is complete, or when its time is over and the job has begun to reward.
-- `unactivated`: it was deferred, and nothing on time has said yet that its answer was used.
CREATE TEMP TABLE opened AS
SELECT
  m.*,
  CASE
    WHEN NOT STARTS_WITH(m.producer, 'bus-') THEN
      COALESCE(j.rewards, 0) > 0
      OR m.`offset` <= COALESCE(d.decisions, 0)
      OR (w.producer IS NOT NULL AND COALESCE(m.decided_at < @given_up_before AND m.received_at < @watermark, FALSE))
    ELSE COALESCE(m.decided_at < @given_up_before AND m.received_at < @watermark, FALSE)
      OR (@close_early AND COALESCE(j.on_time, 0) > 0)
  END AS closes,
  COALESCE(m.deferred, FALSE) AND STARTS_WITH(m.producer, 'bus-') AND COALESCE(j.on_time, 0) = 0
    AND COALESCE(u.uses, 0) = 0 AS unactivated
FROM made AS m
LEFT JOIN (
  SELECT event_id, COUNT(*) AS rewards, COUNTIF(on_time) AS on_time
  FROM judged WHERE is_open GROUP BY event_id
) AS j ON j.event_id = m.event_id
LEFT JOIN (
  SELECT a.event_id, COUNT(*) AS uses
  FROM activated AS a JOIN made AS d ON d.event_id = a.event_id
  WHERE UNIX_MICROS(a.received_at) - UNIX_MICROS(d.decided_at) <= @wait_us
    AND UNIX_MICROS(d.received_at) - UNIX_MICROS(a.received_at) <= @wait_us
  GROUP BY a.event_id
) AS u ON u.event_id = m.event_id
LEFT JOIN rewarding AS w ON w.producer = m.producer
LEFT JOIN (SELECT producer, MAX(decisions) AS decisions FROM completions GROUP BY producer) AS d
  ON d.producer = m.producer
WHERE NOT EXISTS (SELECT 1 FROM closed AS c WHERE c.event_id = m.event_id);

-- A reward's fate: 'used', a reason to be set apart, or NULL as long as it waits.
CREATE TEMP TABLE fates AS
SELECT
  j.event_id, j.reward, j.observed_at, j.activation, j.received_at, j.producer, j.`offset`,
  CASE
    WHEN j.too_early AND (j.closed_by IS NOT NULL OR o.closes) THEN 'unknown'
    WHEN j.closed_by IS NOT NULL THEN IF(j.on_time AND j.closed_by = 'reward', 'duplicate', 'late')
    WHEN j.is_open AND NOT o.closes THEN NULL
    WHEN j.is_open AND j.on_time THEN IF(j.place = 1, 'used', 'duplicate')
    WHEN j.is_open THEN 'late'
    WHEN j.unknown THEN 'unknown'
  END AS fate
FROM judged AS j
LEFT JOIN opened AS o ON o.event_id = j.event_id;

SET (closing, remaining, still_open) = (
  SELECT AS STRUCT
    COUNTIF(closes) AS closing, COUNTIF(NOT closes) AS remaining, MIN(IF(closes, NULL, received_at)) AS still_open
  FROM opened
);
SET (apart, still_waiting) = (
  SELECT AS STRUCT
    COUNTIF(fate <> 'used') AS apart, MIN(IF(fate IS NULL, received_at, NULL)) AS still_waiting
  FROM fates
);
-- An activation waits as long as its decision is open, or may still come.
SET still_early = (
  SELECT MIN(a.received_at)
  FROM activated AS a
  LEFT JOIN closed AS c ON c.event_id = a.event_id
  LEFT JOIN opened AS o ON o.event_id = a.event_id
  WHERE c.event_id IS NULL AND IF(
    o.event_id IS NULL,
    NOT (STARTS_WITH(a.producer, 'bus-') AND COALESCE(a.received_at < @given_up_before, FALSE)),
    NOT o.closes
  )
);

INSERT INTO interactions (seq, $decision, reward, reward_observed_at, reward_received_at, closed_by, closed_at)
SELECT
  @head + ROW_NUMBER() OVER (ORDER BY o.received_at, o.producer, o.`offset`),
  $of_decision,
  IF(f.event_id IS NULL, @reward_default, f.reward),
  f.observed_at,
  f.received_at,
  CASE WHEN f.event_id IS NOT NULL THEN 'reward' WHEN o.unactivated THEN 'unactivated' ELSE 'timeout' END,
  @now
FROM (SELECT * REPLACE (NOT unactivated AS served) FROM opened) AS o
LEFT JOIN (SELECT * FROM fates WHERE fate = 'used') AS f ON f.event_id = o.event_id
WHERE o.closes;

INSERT INTO rewards_apart ($reward, reason)
SELECT $reward, fate FROM fates WHERE fate IS NOT NULL AND fate <> 'used';

-- The next run reads from open_from on: what has been open, or was received after next_from. That was told by the run
-- before this one, so that whoever stores a row of before it, which this run may not see yet, changes this row as well.
-- Ten minutes: a server's first events may overtake its first heartbeat.
UPDATE joiner
SET
  head = head + closing,
  revision = revision + 1,
  `open` = remaining,
  open_from = LEAST(
    COALESCE(still_open, TIMESTAMP '9999-12-31 00:00:00+00'),
    COALESCE(still_waiting, TIMESTAMP '9999-12-31 00:00:00+00'),
    COALESCE(still_early, TIMESTAMP '9999-12-31 00:00:00+00'),
    COALESCE(next_from, open_from)
  ),
  next_from = TIMESTAMP_SUB(COALESCE(GREATEST(watermark, @watermark), watermark, @watermark), INTERVAL 10 MINUTE),
  watermark = COALESCE(GREATEST(watermark, @watermark), watermark, @watermark),
  joined_at = @now
WHERE revision = @revision;

COMMIT TRANSACTION;

SELECT closing AS interactions, apart AS apart, @head + closing AS head, remaining AS `open`;
