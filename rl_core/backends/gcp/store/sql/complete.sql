-- Says once that a job's decisions have all their rewards.
INSERT INTO completions (producer, decisions, completed_at)
SELECT @producer, @decisions, @now
FROM (SELECT 1 AS one) AS once
WHERE @decisions > (SELECT COALESCE(MAX(decisions), 0) FROM completions WHERE producer = @producer);
