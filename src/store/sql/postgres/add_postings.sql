INSERT INTO postings (
    id, user_id, class_id, model_id, opened_at, settled_at, outcome, estimated,
    requests, prompt_tokens, completion_tokens, cost_nanodollars
)
SELECT * FROM unnest(
    $1::uuid[], $2::bigint[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::smallint[], $8::boolean[],
    $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]
)
