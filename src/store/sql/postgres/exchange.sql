-- What is given back leaves each lease; then it grows by what is lent of what remains of the limit. An exchange that
-- the lease has seen already changes nothing. All the totals are locked, and with them the leases. Returns how each
-- stands then, in the order asked. No sum overflows: limits are at most half of what fits.
WITH asked AS (
    SELECT * FROM unnest(
        $2::bigint[], $3::int[], $4::smallint[], $5::bigint[], $6::uuid[], $7::bigint[], $8::bigint[], $9::bigint[],
        $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
        $17::bigint[], $18::bigint[], $19::bigint[]
    ) WITH ORDINALITY AS a (
        user_id, class_id, window_kind, window_start, exchange, obeyed, limit_requests, limit_tokens, limit_cost,
        back_requests, back_tokens, back_cost, need_requests, need_tokens, need_cost, most_requests, most_tokens,
        most_cost, place
    )
), share AS (
    SELECT 4 * greatest(count(*), 1) AS parts FROM instances
    WHERE heartbeat_at > now_micros() - $20 AND written_off_at IS NULL
), kept AS (
    SELECT a.*, parts, t.requests, t.prompt_tokens, t.completion_tokens, t.cost_nanodollars,
        coalesce(own.exchange = a.exchange, false) AS again,
        own.granted_requests AS again_requests,
        own.granted_tokens AS again_tokens,
        own.granted_cost_nanodollars AS again_cost,
        CASE WHEN own.exchange = a.exchange THEN own.requests
            ELSE greatest(coalesce(own.requests, 0) - back_requests, 0) END AS own_requests,
        CASE WHEN own.exchange = a.exchange THEN own.tokens
            ELSE greatest(coalesce(own.tokens, 0) - back_tokens, 0) END AS own_tokens,
        CASE WHEN own.exchange = a.exchange THEN own.cost_nanodollars
            ELSE greatest(coalesce(own.cost_nanodollars, 0) - back_cost, 0) END AS own_cost,
        coalesce(others.requests, 0) AS other_requests,
        coalesce(others.tokens, 0) AS other_tokens,
        coalesce(others.cost_nanodollars, 0) AS other_cost,
        coalesce(others.obeyed, 9223372036854775807) AS others_obeyed
    FROM asked a
    CROSS JOIN share
    JOIN usage_totals t USING (user_id, class_id, window_kind, window_start)
    LEFT JOIN leases own
        ON own.user_id = a.user_id AND own.class_id = a.class_id AND own.window_kind = a.window_kind
        AND own.window_start = a.window_start AND own.instance = $1::uuid
    LEFT JOIN LATERAL (
        SELECT sum(l.requests)::bigint AS requests, sum(l.tokens)::bigint AS tokens,
            sum(l.cost_nanodollars)::bigint AS cost_nanodollars,
            min(l.obeyed) FILTER (WHERE l.requests > 0 OR l.tokens > 0 OR l.cost_nanodollars > 0) AS obeyed
        FROM leases l
        WHERE l.user_id = a.user_id AND l.class_id = a.class_id AND l.window_kind = a.window_kind
            AND l.window_start = a.window_start AND l.instance <> $1::uuid
    ) AS others ON true
), room AS (
    SELECT *,
        limit_requests - requests - own_requests - other_requests AS room_requests,
        limit_tokens - (prompt_tokens + completion_tokens) - own_tokens - other_tokens AS room_tokens,
        limit_cost - cost_nanodollars - own_cost - other_cost AS room_cost
    FROM kept
), lent AS (
    SELECT *,
        CASE WHEN again OR limit_requests IS NULL THEN 0 ELSE greatest(least(
            room_requests, greatest(least(room_requests / parts, most_requests), need_requests)
        ), 0) END AS lent_requests,
        CASE WHEN again OR limit_tokens IS NULL THEN 0 ELSE greatest(least(
            room_tokens, greatest(least(room_tokens / parts, most_tokens), need_tokens)
        ), 0) END AS lent_tokens,
        CASE WHEN again OR limit_cost IS NULL THEN 0 ELSE greatest(least(
            room_cost, greatest(least(room_cost / parts, most_cost), need_cost)
        ), 0) END AS lent_cost
    FROM room
), granted AS (
    SELECT *,
        CASE WHEN again THEN again_requests ELSE lent_requests END AS granted_requests,
        CASE WHEN again THEN again_tokens ELSE lent_tokens END AS granted_tokens,
        CASE WHEN again THEN again_cost ELSE lent_cost END AS granted_cost
    FROM lent
), done AS (
    INSERT INTO leases AS l (
        user_id, class_id, window_kind, window_start, instance, requests, tokens, cost_nanodollars, exchange,
        granted_requests, granted_tokens, granted_cost_nanodollars, obeyed
    )
    SELECT
        user_id, class_id, window_kind, window_start, $1::uuid, own_requests + lent_requests, own_tokens + lent_tokens,
        own_cost + lent_cost, exchange, granted_requests, granted_tokens, granted_cost, obeyed
    FROM granted
    ORDER BY 1, 2, 3, 4
    ON CONFLICT (user_id, class_id, window_kind, window_start, instance) DO UPDATE SET
        requests = excluded.requests,
        tokens = excluded.tokens,
        cost_nanodollars = excluded.cost_nanodollars,
        granted_requests = excluded.granted_requests,
        granted_tokens = excluded.granted_tokens,
        granted_cost_nanodollars = excluded.granted_cost_nanodollars,
        exchange = excluded.exchange,
        obeyed = greatest(l.obeyed, excluded.obeyed)
)
SELECT
    requests, prompt_tokens, completion_tokens, cost_nanodollars, granted_requests, granted_tokens, granted_cost,
    own_requests + lent_requests AS leased_requests, own_tokens + lent_tokens AS leased_tokens,
    own_cost + lent_cost AS leased_cost, other_requests, other_tokens, other_cost, others_obeyed AS obeyed
FROM granted
ORDER BY place
