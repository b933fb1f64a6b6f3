#!/usr/bin/env bash
# Builds the NIF and runs the tests; the last line is `erlang: N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
root=$(cd .. && pwd)
(cd "$root" && cargo build -q --locked -p hstream-server) || exit 1
export HSTREAM_SERVER_BINARY="$root/target/debug/hstream-server"
out=$(mktemp)
trap 'rm -f "$out"' EXIT
rebar3 "do" xref, eunit --verbose 2>&1 | tee "$out"
status=${PIPESTATUS[0]}
failed=$(sed -nE 's/.*Failed: ([0-9]+)\..*/\1/p' "$out" | tail -n 1)
passed=$(sed -nE 's/.*Passed: ([0-9]+)\..*/\1/p; s/.*All ([0-9]+) tests passed.*/\1/p' "$out" | tail -n 1)
passed=${passed:-0}
failed=${failed:-0}
[ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
echo "erlang: $passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
