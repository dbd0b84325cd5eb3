UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), used.at)
FROM (SELECT unhex(value ->> 0) AS sha256, max(value ->> 1) AS at FROM json_each($1) GROUP BY 1) AS used
WHERE api_keys.sha256 = used.sha256
