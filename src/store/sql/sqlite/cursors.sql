SELECT coalesce(j.applied, 0) AS applied
FROM json_each($1) AS asked
LEFT JOIN journals j ON j.id = asked.value
ORDER BY asked.key
