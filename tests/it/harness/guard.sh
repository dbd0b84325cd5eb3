# Runs a private server for as long as its standard input is open, then removes every trace: also after a SIGKILL of
# the tests, since the kernel closes their end of the pipe. Takes orders by line, answers each with a line.
#   guard.sh postgres|redis|redis_tls PORT
#   guard.sh pgbouncer PORT MODE PORT-OF-POSTGRES
kind=$1 port=$2 mode=$3 behind=$4
# In /tmp, whatever TMPDIR says: the path of a socket has at most 107 bytes.
dir=$(mktemp -d /tmp/hne-test-XXXXXX) || exit 1
PATH=$PATH:/usr/sbin:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
pid=

start_postgres() {
    pg_ctl -D "$dir/data" -l "$dir/log" -w -t 60 start -o "-p $port -k $dir" >/dev/null 2>&1 || return 1
    pid=$(head -n 1 "$dir/data/postmaster.pid")
}

# Makes server.key, and a server.crt that signed itself, in that folder.
certify() {
    openssl req -new -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE \
        -keyout "$1/server.key" -out "$1/server.crt" 2>/dev/null && chmod 600 "$1/server.key"
}

prepare_postgres() {
    initdb -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >/dev/null 2>&1 || return 1
    certify "$dir/data" || return 1
    cat >>"$dir/data/postgresql.conf" <<END
listen_addresses = '127.0.0.1'
ssl = on
max_connections = 300
shared_buffers = 128MB
fsync = off
full_page_writes = off
END
}

start_redis() {
    redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --save '' --appendonly no >"$dir/log" 2>&1 &
    pid=$!
    until redis-cli -p "$port" ping >/dev/null 2>&1; do kill -0 "$pid" 2>/dev/null || return 1; done
}

prepare_redis() { :; }

# As hosted ones are: TLS only, and a password.
start_redis_tls() {
    redis-server --bind 127.0.0.1 --port 0 --tls-port "$port" --tls-auth-clients no --tls-cert-file "$dir/server.crt" \
        --tls-key-file "$dir/server.key" --tls-ca-cert-file "$dir/server.crt" --requirepass the-token \
        --dir "$dir" --save '' --appendonly no >"$dir/log" 2>&1 &
    pid=$!
    until redis-cli --tls --cacert "$dir/server.crt" -h localhost -p "$port" ping >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || return 1
    done
}

prepare_redis_tls() { certify "$dir"; }

prepare_pgbouncer() {
    cat >"$dir/pgbouncer.ini" <<END
[databases]
* = host=127.0.0.1 port=$behind user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = any
pool_mode = $mode
END
}

start_pgbouncer() {
    pgbouncer "$dir/pgbouncer.ini" >"$dir/log" 2>&1 &
    pid=$!
    until psql -Xqc 'SHOW VERSION' "postgres://pgbouncer@127.0.0.1:$port/pgbouncer" >/dev/null 2>&1; do
        kill -0 "$pid" 2>/dev/null || return 1
    done
}

everybody() { echo "$pid $(pgrep -P "$pid" | tr '\n' ' ')"; }

stop() {
    [ -n "$pid" ] || return 0
    kill -CONT $(everybody) 2>/dev/null
    case $kind in
        postgres) pg_ctl -D "$dir/data" -m "$1" -w -t 60 stop >/dev/null 2>&1 ;;
        redis*|pgbouncer) kill -KILL "$pid"; wait "$pid" 2>/dev/null ;;
    esac
    pid=
}

trap '' INT TERM HUP
prepare_$kind && start_$kind && echo "$dir" || { cat "$dir/log" >&2; rm -rf "$dir"; exit 1; }
while read -r order; do
    case $order in
        start) [ -n "$pid" ] || start_$kind ;;
        stop) stop fast ;;
        kill) stop immediate ;;
        freeze) kill -STOP $(everybody) ;;
        thaw) kill -CONT $(everybody) ;;
    esac
    echo done
done
stop immediate
rm -rf "$dir"
