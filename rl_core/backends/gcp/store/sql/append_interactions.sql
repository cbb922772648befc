-- Interactions out of the staging table, if they continue head.
DECLARE known INT64;
BEGIN TRANSACTION;
SET known = (SELECT head FROM joiner);
INSERT INTO interactions ($columns)
SELECT $columns FROM interactions_staging
WHERE batch = @batch AND known = @first - 1;
UPDATE joiner SET head = @last, revision = revision + 1 WHERE head = @first - 1;
COMMIT TRANSACTION;
SELECT known AS known;
