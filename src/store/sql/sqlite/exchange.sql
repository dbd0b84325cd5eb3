-- What is given back leaves each lease; then it grows by what is lent of what remains of the limit. An exchange that
-- the lease has seen already changes nothing. Where there is no limit, there is no room, and nothing is lent.
WITH asked AS (
    SELECT
        value ->> 0 AS user_id, value ->> 1 AS class_id, value ->> 2 AS window_kind, value ->> 3 AS window_start,
        value ->> 4 AS exchange, value ->> 5 AS obeyed,
        value ->> 6 AS limit_requests, value ->> 7 AS limit_tokens, value ->> 8 AS limit_cost,
        value ->> 9 AS back_requests, value ->> 10 AS back_tokens, value ->> 11 AS back_cost,
        value ->> 12 AS need_requests, value ->> 13 AS need_tokens, value ->> 14 AS need_cost,
        value ->> 15 AS most_requests, value ->> 16 AS most_tokens, value ->> 17 AS most_cost
    FROM json_each($1)
), share AS (
    SELECT 4 * max(count(*), 1) AS parts FROM instances
    WHERE heartbeat_at > CAST(unixepoch('subsec') * 1000000 AS INTEGER) - $2 AND written_off_at IS NULL
), kept AS (
    SELECT a.*, parts,
        t.requests AS used_requests, t.prompt_tokens + t.completion_tokens AS used_tokens,
        t.cost_nanodollars AS used_cost,
        max(coalesce(sum(l.requests) FILTER (WHERE l.instance = $3), 0) - back_requests, 0) AS own_requests,
        max(coalesce(sum(l.tokens) FILTER (WHERE l.instance = $3), 0) - back_tokens, 0) AS own_tokens,
        max(coalesce(sum(l.cost_nanodollars) FILTER (WHERE l.instance = $3), 0) - back_cost, 0) AS own_cost,
        coalesce(sum(l.requests) FILTER (WHERE l.instance <> $3), 0) AS other_requests,
        coalesce(sum(l.tokens) FILTER (WHERE l.instance <> $3), 0) AS other_tokens,
        coalesce(sum(l.cost_nanodollars) FILTER (WHERE l.instance <> $3), 0) AS other_cost
    FROM asked a
    CROSS JOIN share
    JOIN usage_totals t USING (user_id, class_id, window_kind, window_start)
    LEFT JOIN leases l USING (user_id, class_id, window_kind, window_start)
    GROUP BY a.user_id, a.class_id, a.window_kind, a.window_start
), room AS (
    SELECT *,
        limit_requests - used_requests - own_requests - other_requests AS room_requests,
        limit_tokens - used_tokens - own_tokens - other_tokens AS room_tokens,
        limit_cost - used_cost - own_cost - other_cost AS room_cost
    FROM kept
), lent AS (
    SELECT *,
        coalesce(max(min(room_requests, max(min(room_requests / parts, most_requests), need_requests)), 0), 0)
            AS lent_requests,
        coalesce(max(min(room_tokens, max(min(room_tokens / parts, most_tokens), need_tokens)), 0), 0) AS lent_tokens,
        coalesce(max(min(room_cost, max(min(room_cost / parts, most_cost), need_cost)), 0), 0) AS lent_cost
    FROM room
)
INSERT INTO leases (
    instance, user_id, class_id, window_kind, window_start, requests, tokens, cost_nanodollars, exchange,
    granted_requests, granted_tokens, granted_cost_nanodollars, obeyed
)
SELECT
    $3, user_id, class_id, window_kind, window_start,
    CAST(own_requests + lent_requests AS INTEGER), CAST(own_tokens + lent_tokens AS INTEGER),
    CAST(own_cost + lent_cost AS INTEGER), exchange,
    CAST(lent_requests AS INTEGER), CAST(lent_tokens AS INTEGER), CAST(lent_cost AS INTEGER), obeyed
FROM lent
WHERE true
ON CONFLICT (user_id, class_id, window_kind, window_start, instance) DO UPDATE SET
    requests = CASE WHEN exchange = excluded.exchange THEN requests ELSE excluded.requests END,
    tokens = CASE WHEN exchange = excluded.exchange THEN tokens ELSE excluded.tokens END,
    cost_nanodollars = CASE WHEN exchange = excluded.exchange THEN cost_nanodollars ELSE excluded.cost_nanodollars END,
    granted_requests = CASE WHEN exchange = excluded.exchange THEN granted_requests ELSE excluded.granted_requests END,
    granted_tokens = CASE WHEN exchange = excluded.exchange THEN granted_tokens ELSE excluded.granted_tokens END,
    granted_cost_nanodollars = CASE WHEN exchange = excluded.exchange THEN granted_cost_nanodollars
        ELSE excluded.granted_cost_nanodollars END,
    exchange = excluded.exchange,
    obeyed = max(obeyed, excluded.obeyed)
