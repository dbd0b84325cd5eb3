-- The totals that differ from the sums of their postings, pruned ones included, with the difference (total - sum) of
-- each figure.
WITH sums AS (
    SELECT user_id, class_id, window_kind, window_start,
        CAST(sum(requests) AS BIGINT) AS requests,
        CAST(sum(prompt_tokens) AS BIGINT) AS prompt_tokens,
        CAST(sum(completion_tokens) AS BIGINT) AS completion_tokens,
        CAST(sum(cost_nanodollars) AS BIGINT) AS cost_nanodollars
    FROM (SELECT * FROM posting_windows UNION ALL SELECT * FROM usage_checkpoints) AS counted
    GROUP BY user_id, class_id, window_kind, window_start
), differences AS (
    SELECT
        coalesce(t.user_id, s.user_id) AS user_id,
        coalesce(t.class_id, s.class_id) AS class_id,
        coalesce(t.window_kind, s.window_kind) AS window_kind,
        coalesce(t.window_start, s.window_start) AS window_start,
        coalesce(t.requests, 0) - coalesce(s.requests, 0) AS requests,
        coalesce(t.prompt_tokens, 0) - coalesce(s.prompt_tokens, 0) AS prompt_tokens,
        coalesce(t.completion_tokens, 0) - coalesce(s.completion_tokens, 0) AS completion_tokens,
        coalesce(t.cost_nanodollars, 0) - coalesce(s.cost_nanodollars, 0) AS cost_nanodollars
    FROM usage_totals t
    FULL JOIN sums s
        ON s.user_id = t.user_id AND s.class_id = t.class_id
        AND s.window_kind = t.window_kind AND s.window_start = t.window_start
)
SELECT
    coalesce(users.name, '?') AS "user",
    coalesce(classes.name, '?') AS class,
    window_kind, window_start, requests, prompt_tokens, completion_tokens, cost_nanodollars,
    CAST(sum(abs(requests) + abs(prompt_tokens) + abs(completion_tokens) + abs(cost_nanodollars)) OVER () AS BIGINT)
        AS drift
FROM differences
LEFT JOIN users ON users.id = differences.user_id
LEFT JOIN classes ON classes.id = differences.class_id
WHERE requests <> 0 OR prompt_tokens <> 0 OR completion_tokens <> 0 OR cost_nanodollars <> 0
ORDER BY differences.user_id, differences.class_id, window_kind, window_start
LIMIT $1
