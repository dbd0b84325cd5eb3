-- Drops an instance's leases of windows that ended long ago, some at a time. It waits for nobody.
DELETE FROM leases WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM leases
    WHERE instance = $1::uuid AND (window_kind = 0 AND window_start < $2 OR window_kind = 1 AND window_start < $3)
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
))
