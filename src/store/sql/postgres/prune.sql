-- Moves old rows into the checkpoints of both of their windows and returns how many there were. One statement, so that
-- what is added up is what is deleted.
WITH gone AS (
    DELETE FROM postings WHERE opened_at < $1
    RETURNING user_id, class_id, opened_at, requests, prompt_tokens, completion_tokens, cost_nanodollars
), kept AS (
    INSERT INTO usage_checkpoints AS c (
        user_id, class_id, window_kind, window_start, requests, prompt_tokens, completion_tokens, cost_nanodollars
    )
    SELECT user_id, class_id, window_kind, window_start,
        sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost_nanodollars)
    FROM gone
    CROSS JOIN LATERAL (VALUES
        (0::smallint, opened_at / 86400000000 * 86400),
        (1::smallint,
            extract(epoch FROM date_trunc('month', to_timestamp(opened_at / 1000000) AT TIME ZONE 'UTC'))::bigint)
    ) AS counted (window_kind, window_start)
    GROUP BY user_id, class_id, window_kind, window_start
    ORDER BY user_id, class_id, window_kind, window_start
    ON CONFLICT (user_id, class_id, window_kind, window_start) DO UPDATE SET
        requests = c.requests + excluded.requests,
        prompt_tokens = c.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = c.completion_tokens + excluded.completion_tokens,
        cost_nanodollars = c.cost_nanodollars + excluded.cost_nanodollars
)
SELECT count(*) AS value FROM gone
