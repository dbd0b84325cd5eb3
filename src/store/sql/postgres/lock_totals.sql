-- Makes the totals that aren't there and locks them all, in the order of the keys, in which everybody locks them.
-- A row that is there is locked before the condition is read, and not written.
INSERT INTO usage_totals AS t (
    user_id, class_id, window_kind, window_start, requests, prompt_tokens, completion_tokens, cost_nanodollars
)
SELECT user_id, class_id, window_kind, window_start, 0, 0, 0, 0
FROM unnest($1::bigint[], $2::int[], $3::smallint[], $4::bigint[]) AS a (user_id, class_id, window_kind, window_start)
ORDER BY 1, 2, 3, 4
ON CONFLICT (user_id, class_id, window_kind, window_start) DO UPDATE SET requests = t.requests WHERE false
