-- Moves each cursor that stands where its batch starts, makes those that start at 0, and returns what it moved.
INSERT INTO journals (id, started, applied, updated_at)
SELECT value ->> 0, value ->> 1, value ->> 2, CAST(unixepoch('subsec') * 1000000 AS INTEGER)
FROM json_each($1)
WHERE value ->> 1 = 0 OR value ->> 0 IN (SELECT id FROM journals)
ON CONFLICT (id) DO UPDATE
SET started = excluded.started, applied = excluded.applied, updated_at = excluded.updated_at
WHERE journals.applied = excluded.started
RETURNING id
