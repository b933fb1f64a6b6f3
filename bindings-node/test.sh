#!/bin/sh
# Installs, builds and tests the Node package. Last line: "node: N passed, N failed"; non-zero when something failed.
set -u
cd "$(dirname "$0")" || exit 1

fail() {
    echo "node: $1" >&2
    echo "node: 0 passed, 1 failed"
    exit 1
}

npm ci --no-audit --no-fund --loglevel=error || fail "npm ci failed"
node build.mjs || fail "the build failed"
cargo build -p hstream-server || fail "the server does not build"

passed=0
failed=0
if node node_modules/typescript/bin/tsc -p test; then
    passed=1
else
    echo "node: the declarations do not fit test/usage.ts" >&2
    failed=1
fi

out=$(mktemp)
trap 'rm -f "$out"' EXIT
# The reporter's totals are read from the file; the run itself is shown as it goes.
node --test --test-timeout=120000 --test-reporter=spec --test-reporter-destination=stdout \
    --test-reporter=tap --test-reporter-destination="$out" test/*.test.mjs
status=$?
count() { sed -n "s/^# $1 \([0-9][0-9]*\)$/\1/p" "$out" | tail -n 1; }
ok=$(count pass)
bad=$(count fail)
cancelled=$(count cancelled)
if [ -z "$ok" ] || [ -z "$bad" ]; then
    ok=0
    bad=1
fi
passed=$((passed + ok))
failed=$((failed + bad + ${cancelled:-0}))
# A run that failed without a failed test (a crash) still is a failure.
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
    failed=1
fi
echo "node: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
