-- Adds old rows to the checkpoints of both of their windows; they are deleted in the same transaction.
INSERT INTO usage_checkpoints (
    user_id, class_id, window_kind, window_start, requests, prompt_tokens, completion_tokens, cost_nanodollars
)
SELECT user_id, class_id, kinds.value, CASE kinds.value
        WHEN 0 THEN opened_at / 86400000000 * 86400
        ELSE unixepoch(opened_at / 1000000, 'unixepoch', 'start of month')
    END,
    sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cost_nanodollars)
FROM postings
CROSS JOIN json_each('[0, 1]') AS kinds
WHERE opened_at < $1
GROUP BY 1, 2, 3, 4
ON CONFLICT (user_id, class_id, window_kind, window_start) DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cost_nanodollars = cost_nanodollars + excluded.cost_nanodollars
