SELECT coalesce(j.applied, 0) AS applied, j.id IS NOT NULL AS known, j.closed_at IS NOT NULL AS closed
FROM unnest($1::uuid[]) WITH ORDINALITY AS asked (id, place)
LEFT JOIN journals j ON j.id = asked.id
ORDER BY asked.place
