SELECT coalesce(j.applied, 0) AS applied, j.id IS NOT NULL AS known, j.closed_at IS NOT NULL AS closed
FROM json_each($1) AS asked
LEFT JOIN journals j ON j.id = asked.value
ORDER BY asked.key
