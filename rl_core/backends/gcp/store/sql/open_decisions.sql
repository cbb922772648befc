-- Decisions that no interaction holds yet, by producer. Before @open_from every decision has been dealt with.
DECLARE first_id, last_id STRING;

CREATE TEMP TABLE made AS
SELECT event_id, producer, received_at FROM decisions WHERE received_at >= @open_from AND served;

SET (first_id, last_id) = (SELECT AS STRUCT MIN(event_id) AS first_id, MAX(event_id) AS last_id FROM made);

SELECT m.producer, COUNT(DISTINCT m.event_id) AS `count`, MIN(m.received_at) AS since
FROM made AS m
LEFT JOIN (SELECT event_id FROM interactions WHERE event_id BETWEEN first_id AND last_id) AS i
  ON i.event_id = m.event_id
WHERE i.event_id IS NULL
GROUP BY m.producer
ORDER BY m.producer;
