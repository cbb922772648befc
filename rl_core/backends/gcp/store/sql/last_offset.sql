-- The last offset before the first gap: streamed rows arrive in any order, and more than once.
SELECT COALESCE(MAX(IF(`offset` = place, `offset`, NULL)), 0) AS known
FROM (
  SELECT `offset`, ROW_NUMBER() OVER (ORDER BY `offset`) AS place
  FROM (SELECT DISTINCT `offset` FROM $table WHERE producer = @producer) AS once
) AS placed
