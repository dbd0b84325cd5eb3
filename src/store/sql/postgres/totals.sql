SELECT
    coalesce(t.requests, 0) AS requests,
    coalesce(t.prompt_tokens, 0) AS prompt_tokens,
    coalesce(t.completion_tokens, 0) AS completion_tokens,
    coalesce(t.cost_nanodollars, 0) AS cost_nanodollars
FROM unnest($1::bigint[], $2::int[], $3::smallint[], $4::bigint[])
    WITH ORDINALITY AS asked (user_id, class_id, window_kind, window_start, place)
LEFT JOIN usage_totals t USING (user_id, class_id, window_kind, window_start)
ORDER BY asked.place
