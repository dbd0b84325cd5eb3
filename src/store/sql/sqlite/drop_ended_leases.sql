-- Drops an instance's leases of windows that ended long ago.
DELETE FROM leases
WHERE instance = $1 AND (window_kind = 0 AND window_start < $2 OR window_kind = 1 AND window_start < $3)
