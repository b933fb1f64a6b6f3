#!/usr/bin/env bash
# Runs the server's tests over JetStream: those of them that are about what a node does, not about what it stands on.
# The NATS servers are real and the tests' own (`make setup` installs the binary). Arguments choose among the names below.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

# Test executables of server-sim that start nodes.
suites=(admin appends atomicity clients cluster lifecycle poison process reads stats streams
    subscription_policies subscriptions surprises)
[ $# -eq 0 ] || suites=("$@")

cat <<'LEFT'
Not run again over JetStream:
  data_loss, embedded::*                      damage to the files of the embedded store
  reader_faults, subscription_faults,         the domain over a disk or a store that fails on purpose; no node is started
    offsets, ownership
  connections, hostile, listeners, gossip     sockets, memory of requests, membership; no store matters
  jetstream, meta_store                       they start NATS by themselves, always
  cluster_end, command_line::*                threads and files of a process; flags
LEFT

# The executables that `cargo test` has built, by name; the same selection of packages as there, so that nothing is built twice.
# Names are those of the package hstream-server only: others have a `cluster`, too.
built=$(cargo test --locked --no-run --message-format=json 2>/dev/null | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    target = message.get("target", {})
    if message.get("executable") and "test" in target.get("kind", []) and "/server-sim/" in target["src_path"]:
        print(target["name"], message["executable"])
')
[ -n "$built" ] || exec cargo test --locked --no-run

status=0
for suite in "${suites[@]}"; do
    executable=$(printf '%s\n' "$built" | sed -n "s/^$suite //p")
    [ -n "$executable" ] || continue
    printf '\n%s over JetStream\n' "$suite"
    (cd server-sim && CARGO_MANIFEST_DIR=$PWD HSTREAM_TEST_STORE=nats "$executable" \
        --skip embedded:: --skip command_line::) || status=1
done
exit "$status"
