-- What is leased, by account.
SELECT
    CAST(l.instance AS TEXT) AS instance,
    coalesce(users.name, '?') AS "user",
    coalesce(classes.name, '?') AS class,
    l.window_kind, l.window_start, l.requests, l.tokens, l.cost_nanodollars, l.obeyed
FROM leases l
LEFT JOIN users ON users.id = l.user_id
LEFT JOIN classes ON classes.id = l.class_id
WHERE l.requests > 0 OR l.tokens > 0 OR l.cost_nanodollars > 0
ORDER BY l.user_id, l.class_id, l.window_kind, l.window_start, l.instance
LIMIT $1
