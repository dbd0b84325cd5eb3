SELECT
    coalesce(t.requests, 0) AS requests,
    coalesce(t.prompt_tokens, 0) AS prompt_tokens,
    coalesce(t.completion_tokens, 0) AS completion_tokens,
    coalesce(t.cost_nanodollars, 0) AS cost_nanodollars
FROM json_each($1) AS asked
LEFT JOIN usage_totals t
    ON t.user_id = asked.value ->> 0 AND t.class_id = asked.value ->> 1
    AND t.window_kind = asked.value ->> 2 AND t.window_start = asked.value ->> 3
ORDER BY asked.key
