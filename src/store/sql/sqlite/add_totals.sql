INSERT INTO usage_totals AS t (
    user_id, class_id, window_kind, window_start, requests, prompt_tokens, completion_tokens, cost_nanodollars
)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
FROM json_each($1)
WHERE true
ON CONFLICT (user_id, class_id, window_kind, window_start) DO UPDATE SET
    requests = t.requests + excluded.requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens,
    cost_nanodollars = t.cost_nanodollars + excluded.cost_nanodollars
