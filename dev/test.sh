#!/usr/bin/env bash
# Runs every test of every language and ends with one line `N passed, N failed`.
#
# A suite that ends badly without saying how many tests failed counts as one failure.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The published wire description is there after setup: a comparison that cannot run is then a failure.
export HSTREAM_PUBLISHED_DESCRIPTOR="$PWD/.setup/published/hstreamdb-api-0.6.1.bin"

# suite NAME COMMAND...: adds up all `P passed; F failed` (cargo) or `P passed, F failed` lines of the output.
suite() {
    local name=$1 status p f
    shift
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r p f < <(sed -nE 's/.*[^0-9]([0-9]+) passed[;,] ([0-9]+) failed.*/\1 \2/p' "$log" |
        awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }')
    [ "$status" = 0 ] || [ "$f" -gt 0 ] || f=1
    [ "$((p + f))" -gt 0 ] || f=1
    passed=$((passed + p))
    failed=$((failed + f))
}

suite rust cargo test --locked --no-fail-fast
# The same server on a replicated store.
suite jetstream dev/jetstream.sh
cargo build -q --locked -p hstream-conformance -p hstream-server
for language in python node erlang; do
    script="bindings-$language/test.sh"
    [ ! -f "$script" ] || suite "$language" bash "$script"
done

# Every language against the same scenarios; the packages are those the suites above have built.
HSTREAM_CONFORMANCE_PYTHON=$(bindings-python/environment.sh)
export HSTREAM_CONFORMANCE_PYTHON

# The published Python client, unmodified, and mixed with ours.
suite published compat/python/test.sh
suite conformance target/debug/conformance --broken --languages raw,rust,python,node,erlang
# On JetStream the scenarios are played by the core; what the other languages do with the answers was seen above.
suite conformance-jetstream env HSTREAM_TEST_STORE=nats target/debug/conformance --languages raw,rust
# Kills under load, briefly; `make failover` has five minutes of it.
suite failover target/debug/failover --languages rust,python,node,erlang --seconds 25 --faults kill
suite failover-jetstream target/debug/failover-jetstream --rounds 3

printf '\n%s passed, %s failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
