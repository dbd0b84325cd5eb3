# The orders `growth` and `soak` of load/run, which reads this.

grow() { load grow --secret "$secret" --out "$world/growth.jsonl" "${passed[@]}" "$@"; }

# users BEFORE STEP: adds them to both stores, and measures both services.
users() {
    local name
    for name in users bounded; do
        tell "$name" "INSERT INTO users (name, plan_id, version)
            SELECT 'user-' || n, plans.id, 0 FROM plans, generate_series($1, $2 - 1) n WHERE plans.name = 'default'"
        tell "$name" 'VACUUM ANALYZE users'
    done
    grow --of users --before "$1" --step "$2" --target "$(target service users)"
    # Half of what fits, as its workers share the accounts unevenly.
    grow --of users --before "$1" --step "$2" --target "$(target bounded bounded)" --warm $((fits / 2))
}

growth() {
    local step fits=20000 most=$((files / 2 - 500))
    # A connection takes a descriptor to the client, and one to the provider.
    [ "$most" -lt 10000 ] || most=10000
    start_mock far
    start_service connections OPENROUTER_BASE_URL="http://${address[far]}/v1"
    for step in 1 10 100 1000 "$most"; do
        grow --of connections --step "$step" --rounds 3 --target "$(target service connections)"
    done
    for step in 1 100 1000; do
        rows="INSERT INTO models (name, class_id, provider, upstream_model, input_price, output_price, origin)
            SELECT 'growth/model-' || n, classes.id, 'openrouter', 'mock/load+frames-5', 1, 1, 'table'
            FROM classes, generate_series(0, $step - 1) n WHERE classes.name = 'basic'"
        start_service "models-$step"
        grow --of models --step "$step" --rounds 3 --target "$(target service "models-$step")"
    done
    rows=
    start_service users
    start_service bounded HNE__QUOTA__MAX_ACCOUNTS=$fits HNE__AUTH__CACHE_ENTRIES=$fits
    users 0 10
    users 10 1000
    users 1000 100000
    users 100000 1000000
    report growth 'the first step' 'What grows' "Each step is measured with the services as the one before has left them. \
$most connections are as many as $files open files allow. Users are added to the store before each step; cold ones are asked for once \
each, warm ones are drawn at random from the last «different users» of these. \`bounded\` keeps $fits accounts, and each of its \
workers $fits tokens and users (\`quota.max_accounts\`, \`auth.cache_entries\`); \`service\` has the defaults." \
        --plot 'CPU µs/answer=growth.svg' --plot 'MiB peak=growth-memory.svg'
    for step in connections models-1 models-100 models-1000 users bounded; do verify "$step"; done
}

soak() {
    start_service soaked
    load soak --secret "$secret" --target "$(target service soaked)" --out "$world/soak.jsonl" "${passed[@]}" || status=1
    report soak 'the first step' 'A long time' '' --lines soak.svg
    verify soaked
    returned soaked
}
