-- Makes the totals that aren't there. The transaction has the only lock that there is.
INSERT OR IGNORE INTO usage_totals (
    user_id, class_id, window_kind, window_start, requests, prompt_tokens, completion_tokens, cost_nanodollars
)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, 0, 0, 0, 0
FROM json_each($1)
