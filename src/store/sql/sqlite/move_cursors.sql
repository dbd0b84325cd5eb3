-- Moves each cursor that stands where its batch starts, makes those that start at 0, and returns what it moved.
INSERT INTO journals (id, started, applied, updated_at, instance, closed_at)
SELECT
    value ->> 0, value ->> 1, value ->> 2, CAST(unixepoch('subsec') * 1000000 AS INTEGER), $1,
    CASE WHEN value ->> 3 THEN CAST(unixepoch('subsec') * 1000000 AS INTEGER) END
FROM json_each($2)
WHERE value ->> 1 = 0 OR value ->> 0 IN (SELECT id FROM journals)
ON CONFLICT (id) DO UPDATE SET
    started = excluded.started, applied = excluded.applied, updated_at = excluded.updated_at,
    instance = excluded.instance, closed_at = excluded.closed_at
WHERE journals.applied = excluded.started
RETURNING id
