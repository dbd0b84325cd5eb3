-- Who else has something leased of these, but for those who were written off.
SELECT l.instance, l.user_id, l.class_id, l.window_kind, l.window_start
FROM json_each($1) AS a
JOIN leases l
    ON l.user_id = a.value ->> 0 AND l.class_id = a.value ->> 1
    AND l.window_kind = a.value ->> 2 AND l.window_start = a.value ->> 3
WHERE l.instance <> $2 AND (l.requests > 0 OR l.tokens > 0 OR l.cost_nanodollars > 0)
    AND l.instance NOT IN (SELECT id FROM instances WHERE written_off_at IS NOT NULL)
ORDER BY 2, 3, 4, 5, 1
