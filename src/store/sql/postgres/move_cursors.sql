-- Moves each cursor that stands where its batch starts, makes those that start at 0, and returns what it moved.
INSERT INTO journals AS j (id, started, applied, updated_at, instance, closed_at)
SELECT m.id, m.started, m.applied, now_micros(), $5::uuid, CASE WHEN m.closes THEN now_micros() END
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[]) AS m (id, started, applied, closes)
WHERE m.started = 0 OR EXISTS (SELECT FROM journals WHERE journals.id = m.id)
ORDER BY m.id
ON CONFLICT (id) DO UPDATE SET
    started = excluded.started, applied = excluded.applied, updated_at = excluded.updated_at,
    instance = excluded.instance, closed_at = excluded.closed_at
WHERE j.applied = excluded.started
RETURNING j.id::text AS id
