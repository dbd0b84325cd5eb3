SELECT k.sha256, u.name, k.expires_at, k.revoked_at
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.sha256 IN (SELECT unhex(value) FROM json_each($1))
