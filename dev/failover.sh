#!/usr/bin/env bash
# Kills a node of a cluster every few seconds under load from every language, checks that nothing was lost and prints how
# long everybody waited. FAILOVER_SECONDS (300), FAILOVER_SEED (by chance) and FAILOVER_FAULTS (mostly kills) choose.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build -q --locked -p hstream-conformance
HSTREAM_CONFORMANCE_PYTHON=$(bindings-python/environment.sh)
export HSTREAM_CONFORMANCE_PYTHON
(cd bindings-node && npm ci --no-audit --no-fund --loglevel=error && node build.mjs)
(cd bindings-erlang && rebar3 compile)
exec target/debug/failover --languages rust,python,node,erlang --seconds "${FAILOVER_SECONDS:-300}" \
    --faults "${FAILOVER_FAULTS:-kill,kill,kill,pause,partition,cut-off,stop}" ${FAILOVER_SEED:+--seed "$FAILOVER_SEED"}
