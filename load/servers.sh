# The servers that load/run starts and measures; it reads this, and ends them.

# Ports that the kernel doesn't hand out by itself.
free_port() {
    local port
    while :; do
        port=$((12000 + RANDOM % 20000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}

# wait_for WHAT COMMAND…: until it succeeds, 30 s at most.
wait_for() {
    local what=$1
    shift
    for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    cat "$world"/*.log >&2 || true
    fail 69 "$what does not start"
}

accepts() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

# start_mock NAME: sets ${pid[NAME]} and ${address[NAME]}.
declare -A pid address
start_mock() {
    "$programs/mock-provider" --listen 127.0.0.1:0 --threads 2 --max-entries 0 >"$world/$1.url" 2>"$world/$1.log" &
    pid[$1]=$!
    started+=("$!")
    wait_for 'the mock provider' grep -q http "$world/$1.url"
    address[$1]=$(sed 's,http://\(.*\)/v1,\1,' "$world/$1.url")
}

start_nginx() {
    nginx_port=$(free_port) nginx_limited=$(free_port)
    mkdir "$world/nginx"
    [ "$(id -u)" != 0 ] || echo 'user root;' >"$world/nginx/nginx.conf"
    cat >>"$world/nginx/nginx.conf" <<END
daemon off;
worker_processes auto;
worker_rlimit_nofile $files;
pid nginx.pid;
error_log stderr warn;
events { worker_connections $files; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 100000000;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    proxy_read_timeout 600s;
    limit_conn_zone \$server_port zone=running:1m;
    limit_conn_status 503;
    upstream provider {
        server ${address[mock]};
        keepalive 1024;
        keepalive_requests 100000000;
    }
    server {
        listen 127.0.0.1:$nginx_port backlog=4096;
        location / { proxy_pass http://provider; }
    }
    # For the overload: as many at once as the service admits there.
    server {
        listen 127.0.0.1:$nginx_limited backlog=4096;
        limit_conn running $admitted;
        location / { proxy_pass http://provider; }
    }
}
END
    nginx -p "$world/nginx" -c nginx.conf -e stderr 2>"$world/nginx.log" &
    nginx_pid=$!
    started+=("$nginx_pid")
    wait_for nginx accepts "$nginx_port"
    # Its workers are what is measured.
    wait_for "nginx's workers" grep -q . "/proc/$nginx_pid/task/$nginx_pid/children"
}

# Relaying by the libraries that the service is made of, and nothing else.
start_bare() {
    address[bare]=127.0.0.1:$(free_port)
    "$programs/bare-actix" "${address[bare]}" "http://${address[mock]}/v1" 2>"$world/bare.log" &
    pid[bare]=$!
    started+=("$!")
    wait_for 'the bare proxy' accepts "${address[bare]##*:}"
}

start_postgres() {
    local as=()
    postgres_port=$(free_port)
    mkdir "$world/postgres"
    if [ "$(id -u)" = 0 ]; then
        # It refuses to run as root.
        as=(setpriv --reuid postgres --regid postgres --init-groups)
        chown postgres "$world/postgres"
    fi
    (cd / && "${as[@]}" initdb -D "$world/postgres/data" -U postgres -A trust -E UTF8 --locale=C) >"$world/initdb.log" 2>&1
    (cd / && exec "${as[@]}" postgres -D "$world/postgres/data" -p "$postgres_port" -k "$world/postgres" \
        -c listen_addresses=127.0.0.1 -c max_connections=300) >"$world/postgres.log" 2>&1 &
    started+=("$!")
    wait_for PostgreSQL psql -Xqh 127.0.0.1 -p "$postgres_port" -U postgres -c 'SELECT 1'
}

start_redis() {
    redis_port=$(free_port)
    redis-server --bind 127.0.0.1 --port "$redis_port" --dir "$world" --save '' --appendonly no >"$world/redis.log" 2>&1 &
    started+=("$!")
    wait_for Redis redis-cli -p "$redis_port" ping
}

# service NAME ARGUMENT…: the program in the world of that name.
service() {
    local name=$1
    shift
    (cd "$world/$name" && exec env -i PATH="$PATH" $(cat "$world/$name/environment") "$program" "$@")
}

# What the service is run under; nothing, but for the count of its instructions.
under=()

# What psql is told before a service starts; nothing, but where its catalog grows.
rows=

# tell NAME SQL: to the database of that service.
tell() { psql -Xqh 127.0.0.1 -p "$postgres_port" -U postgres -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }

# start_service NAME [VARIABLE=VALUE…]: with a database of its own, and the variables laid over those of all; sets
# ${pid[NAME]} and ${address[NAME]}.
start_service() {
    local name=$1
    shift
    mkdir "$world/$name"
    psql -Xqh 127.0.0.1 -p "$postgres_port" -U postgres -c "CREATE DATABASE \"$name\" TEMPLATE template0"
    printf '%s\n' >"$world/$name/environment" \
        LISTEN=127.0.0.1:0 JWT_SECRET="$secret" HNE_DATA_DIR="$world/$name/data" \
        OPENROUTER_API_KEY=key OPENROUTER_BASE_URL="http://${address[mock]}/v1" \
        DATABASE_URL="postgres://postgres@127.0.0.1:$postgres_port/$name?sslmode=disable" \
        REDIS_URL="redis://127.0.0.1:$redis_port" HNE__REDIS__KEY_PREFIX="$name:" \
        HNE__LOG__ACCESS=false "$@"
    service "$name" migrate >"$world/$name.log" 2>&1 || fail 69 "the database of $name can't be made: $(cat "$world/$name.log")"
    # A limit that nobody reaches, so that there is one to keep.
    service "$name" plan set default basic --window month --requests 1000000000 >>"$world/$name.log" 2>&1
    [ -z "$rows" ] || tell "$name" "$rows"
    # Not through the function, whose shell would be the process that `$!` names.
    (cd "$world/$name" && exec env -i PATH="$PATH" $(cat environment) "${under[@]}" "$program" serve) \
        >>"$world/$name.log" 2>&1 &
    pid[$name]=$!
    started+=("$!")
    # As text or as JSON.
    local serving='s/.*serving.*address[=": ]*\([0-9.]*:[0-9]*\).*/\1/p; s/.*address[=": ]*\([0-9.]*:[0-9]*\).*"serving".*/\1/p'
    wait_for "the service ($name)" grep -q '[" ]serving[" ]' "$world/$name.log"
    address[$name]=$(sed -n "$serving" "$world/$name.log" | tail -n 1)
    [ -n "${address[$name]}" ] || fail 69 "the service ($name) does not say where it serves"
}
