-- In the order of the keys, in which everybody locks them.
INSERT INTO usage_totals AS t (
    user_id, class_id, window_kind, window_start, requests, prompt_tokens, completion_tokens, cost_nanodollars
)
SELECT * FROM unnest(
    $1::bigint[], $2::int[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]
)
ORDER BY 1, 2, 3, 4
ON CONFLICT (user_id, class_id, window_kind, window_start) DO UPDATE SET
    requests = t.requests + excluded.requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens,
    cost_nanodollars = t.cost_nanodollars + excluded.cost_nanodollars
