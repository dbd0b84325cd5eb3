-- Who else has something leased of these, but for those who were written off.
SELECT l.instance::text AS instance, l.user_id, l.class_id, l.window_kind, l.window_start
FROM unnest($2::bigint[], $3::int[], $4::smallint[], $5::bigint[]) AS a (user_id, class_id, window_kind, window_start)
JOIN leases l USING (user_id, class_id, window_kind, window_start)
WHERE l.instance <> $1::uuid AND (l.requests > 0 OR l.tokens > 0 OR l.cost_nanodollars > 0)
    AND NOT EXISTS (SELECT FROM instances i WHERE i.id = l.instance AND i.written_off_at IS NOT NULL)
ORDER BY 2, 3, 4, 5, 1
