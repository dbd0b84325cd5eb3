-- What was used leaves the leases that it was lent for. The totals are locked, and with them the leases.
UPDATE leases l SET
    requests = greatest(l.requests - s.requests, 0),
    tokens = greatest(l.tokens - s.tokens, 0),
    cost_nanodollars = greatest(l.cost_nanodollars - s.cost, 0)
FROM unnest(
    $2::bigint[], $3::int[], $4::smallint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]
) AS s (user_id, class_id, window_kind, window_start, requests, tokens, cost)
WHERE l.user_id = s.user_id AND l.class_id = s.class_id AND l.window_kind = s.window_kind
    AND l.window_start = s.window_start AND l.instance = $1::uuid
