-- What an account has used and who has leased what of its limit, in the order asked; zero where there is nothing.
SELECT
    coalesce(t.requests, 0) AS requests,
    coalesce(t.prompt_tokens, 0) AS prompt_tokens,
    coalesce(t.completion_tokens, 0) AS completion_tokens,
    coalesce(t.cost_nanodollars, 0) AS cost_nanodollars,
    CASE WHEN own.exchange = a.value ->> 4 THEN own.granted_requests ELSE 0 END AS granted_requests,
    CASE WHEN own.exchange = a.value ->> 4 THEN own.granted_tokens ELSE 0 END AS granted_tokens,
    CASE WHEN own.exchange = a.value ->> 4 THEN own.granted_cost_nanodollars ELSE 0 END AS granted_cost,
    coalesce(own.requests, 0) AS leased_requests,
    coalesce(own.tokens, 0) AS leased_tokens,
    coalesce(own.cost_nanodollars, 0) AS leased_cost,
    coalesce(sum(l.requests), 0) AS other_requests,
    coalesce(sum(l.tokens), 0) AS other_tokens,
    coalesce(sum(l.cost_nanodollars), 0) AS other_cost,
    coalesce(
        min(l.obeyed) FILTER (WHERE l.requests > 0 OR l.tokens > 0 OR l.cost_nanodollars > 0), 9223372036854775807
    ) AS obeyed
FROM json_each($1) AS a
LEFT JOIN usage_totals t
    ON t.user_id = a.value ->> 0 AND t.class_id = a.value ->> 1
    AND t.window_kind = a.value ->> 2 AND t.window_start = a.value ->> 3
LEFT JOIN leases own
    ON own.user_id = a.value ->> 0 AND own.class_id = a.value ->> 1
    AND own.window_kind = a.value ->> 2 AND own.window_start = a.value ->> 3 AND own.instance = $2
LEFT JOIN leases l
    ON l.user_id = a.value ->> 0 AND l.class_id = a.value ->> 1
    AND l.window_kind = a.value ->> 2 AND l.window_start = a.value ->> 3 AND l.instance <> $2
GROUP BY a.key
ORDER BY a.key
