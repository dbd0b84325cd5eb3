-- What was used leaves the leases that it was lent for.
UPDATE leases SET
    requests = max(requests - (s.value ->> 4), 0),
    tokens = max(tokens - (s.value ->> 5), 0),
    cost_nanodollars = max(cost_nanodollars - (s.value ->> 6), 0)
FROM json_each($1) AS s
WHERE user_id = s.value ->> 0 AND class_id = s.value ->> 1 AND window_kind = s.value ->> 2
    AND window_start = s.value ->> 3 AND instance = $2
