SELECT k.sha256, u.name, k.expires_at, k.revoked_at, (SELECT seq FROM change_counter) AS as_of,
    COALESCE((SELECT at FROM changes WHERE seq = (SELECT seq FROM change_counter)), 0) AS as_of_at
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.sha256 IN (SELECT unhex(value) FROM json_each($1))
