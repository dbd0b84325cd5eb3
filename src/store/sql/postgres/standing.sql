-- What an account has used and who has leased what of its limit, in the order asked; zero where there is nothing.
SELECT
    coalesce(t.requests, 0) AS requests,
    coalesce(t.prompt_tokens, 0) AS prompt_tokens,
    coalesce(t.completion_tokens, 0) AS completion_tokens,
    coalesce(t.cost_nanodollars, 0) AS cost_nanodollars,
    CASE WHEN own.exchange = a.exchange THEN own.granted_requests ELSE 0 END AS granted_requests,
    CASE WHEN own.exchange = a.exchange THEN own.granted_tokens ELSE 0 END AS granted_tokens,
    CASE WHEN own.exchange = a.exchange THEN own.granted_cost_nanodollars ELSE 0 END AS granted_cost,
    coalesce(own.requests, 0) AS leased_requests,
    coalesce(own.tokens, 0) AS leased_tokens,
    coalesce(own.cost_nanodollars, 0) AS leased_cost,
    coalesce(others.requests, 0)::bigint AS other_requests,
    coalesce(others.tokens, 0)::bigint AS other_tokens,
    coalesce(others.cost_nanodollars, 0)::bigint AS other_cost,
    coalesce(others.obeyed, 9223372036854775807) AS obeyed
FROM unnest($2::bigint[], $3::int[], $4::smallint[], $5::bigint[], $6::uuid[])
    WITH ORDINALITY AS a (user_id, class_id, window_kind, window_start, exchange, place)
LEFT JOIN usage_totals t USING (user_id, class_id, window_kind, window_start)
LEFT JOIN leases own
    ON own.user_id = a.user_id AND own.class_id = a.class_id AND own.window_kind = a.window_kind
    AND own.window_start = a.window_start AND own.instance = $1::uuid
LEFT JOIN LATERAL (
    SELECT sum(l.requests) AS requests, sum(l.tokens) AS tokens, sum(l.cost_nanodollars) AS cost_nanodollars,
        min(l.obeyed) FILTER (WHERE l.requests > 0 OR l.tokens > 0 OR l.cost_nanodollars > 0) AS obeyed
    FROM leases l
    WHERE l.user_id = a.user_id AND l.class_id = a.class_id AND l.window_kind = a.window_kind
        AND l.window_start = a.window_start AND l.instance <> $1::uuid
) AS others ON true
ORDER BY a.place
