-- Takes events out of the log in one transaction. It changes the joiner's row, so that a run of the joiner that has read
-- what goes is aborted and begins again.
--
-- An offset that is gone would hold the watermark for ever: it is told in rejected_events, without what it held.
BEGIN TRANSACTION;

UPDATE joiner SET revision = revision + 1 WHERE TRUE;

UPDATE rejected_events SET payload = '', reason = 'forgotten on request'
WHERE EXISTS (SELECT 1 FROM UNNEST(@quoted) AS word WHERE STRPOS(payload, word) > 0);

INSERT INTO rejected_events (kind, received_at, producer, `offset`, payload, reason)
SELECT 'decision', received_at, producer, `offset`, '', 'forgotten on request'
FROM decisions WHERE event_id IN UNNEST(@event_ids)
UNION ALL
SELECT 'reward', received_at, producer, `offset`, '', 'forgotten on request'
FROM rewards WHERE event_id IN UNNEST(@event_ids)
UNION ALL
SELECT 'reward', received_at, producer, `offset`, '', 'forgotten on request'
FROM activations WHERE event_id IN UNNEST(@event_ids);

UPDATE interactions
SET $emptied
WHERE event_id IN UNNEST(@event_ids);

DELETE FROM rewards_apart WHERE event_id IN UNNEST(@event_ids);
DELETE FROM rewards WHERE event_id IN UNNEST(@event_ids);
DELETE FROM activations WHERE event_id IN UNNEST(@event_ids);
DELETE FROM decisions WHERE event_id IN UNNEST(@event_ids);

DELETE FROM decisions_staging WHERE event_id IN UNNEST(@event_ids);
DELETE FROM rewards_staging WHERE event_id IN UNNEST(@event_ids);
DELETE FROM interactions_staging WHERE event_id IN UNNEST(@event_ids);

COMMIT TRANSACTION;

SELECT 1 AS done;
