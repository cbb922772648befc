-- Rows of one producer, out of the staging table: those beyond its last offset, or none where a gap would open.
-- The joiner has to look back as far as they go, so it must not be in the middle of a run: both change its row.
DECLARE known INT64;
BEGIN TRANSACTION;
SET known = (
  SELECT COALESCE(MAX(IF(`offset` = place, `offset`, NULL)), 0)
  FROM (
    SELECT `offset`, ROW_NUMBER() OVER (ORDER BY `offset`) AS place
    FROM (SELECT DISTINCT `offset` FROM $table WHERE producer = @producer) AS once
  ) AS placed
);
INSERT INTO $table ($columns)
SELECT $columns FROM $staging
WHERE batch = @batch AND `offset` > known AND known >= @first - 1;
UPDATE joiner
SET open_from = LEAST(open_from, @received_from), revision = revision + 1
WHERE known >= @first - 1;
COMMIT TRANSACTION;
SELECT known AS known;
