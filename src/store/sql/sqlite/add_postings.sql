INSERT INTO postings (
    id, user_id, class_id, model_id, opened_at, settled_at, outcome, estimated,
    requests, prompt_tokens, completion_tokens, cost_nanodollars
)
SELECT
    value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
    value ->> 8, value ->> 9, value ->> 10, value ->> 11
FROM json_each($1)
