#!/usr/bin/env bash
# Kills a node of a cluster every few seconds under load from every language, checks that nothing was lost and prints how
# long everybody waited. FAILOVER_SECONDS (300), FAILOVER_SEED (by chance) and FAILOVER_FAULTS (mostly kills) choose.
#
# STORE=nats: three node processes over three NATS peers instead, under load from the Rust core; in every round a peer, a node
# or one of each is killed or stands still. FAILOVER_ROUNDS (30), FAILOVER_SEED and FAILOVER_SYNC (always) choose.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${STORE:-}" = nats ]; then
    cargo build -q --locked -p hstream-conformance -p hstream-server
    exec target/debug/failover-jetstream --rounds "${FAILOVER_ROUNDS:-30}" --sync-interval "${FAILOVER_SYNC:-always}" \
        ${FAILOVER_SEED:+--seed "$FAILOVER_SEED"}
fi

cargo build -q --locked -p hstream-conformance
HSTREAM_CONFORMANCE_PYTHON=$(bindings-python/environment.sh)
export HSTREAM_CONFORMANCE_PYTHON
(cd bindings-node && npm ci --no-audit --no-fund --loglevel=error && node build.mjs)
(cd bindings-erlang && rebar3 compile)
exec target/debug/failover --languages rust,python,node,erlang --seconds "${FAILOVER_SECONDS:-300}" \
    --faults "${FAILOVER_FAULTS:-kill,kill,kill,pause,partition,cut-off,stop}" ${FAILOVER_SEED:+--seed "$FAILOVER_SEED"}
