WITH used AS (
    SELECT sha256, max(at) AS at FROM unnest($1::bytea[], $2::bigint[]) AS u (sha256, at) GROUP BY sha256
), free AS (
    SELECT k.id, used.at FROM api_keys k JOIN used ON used.sha256 = k.sha256 FOR UPDATE OF k SKIP LOCKED
)
UPDATE api_keys SET last_used_at = greatest(last_used_at, free.at) FROM free WHERE api_keys.id = free.id
