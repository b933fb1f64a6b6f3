#!/usr/bin/env bash
# Builds what the demo needs, gets the rows and runs it. LANGUAGES=rust,python picks some of the languages.
set -euo pipefail
cd "$(dirname "$0")/.."
languages=${LANGUAGES:-rust,python,node,erlang}

echo "building the server and the clients (the first time takes some minutes)"
cargo build -q --locked -p hstream-server -p hstream-demo
case $languages in
*python*)
    HSTREAM_DEMO_PYTHON=$(bindings-python/environment.sh)
    export HSTREAM_DEMO_PYTHON
    ;;
esac
case $languages in
*node*) (cd bindings-node && npm ci --no-audit --no-fund --loglevel=error >/dev/null && node build.mjs >/dev/null) ;;
esac
case $languages in
*erlang*) (cd bindings-erlang && rebar3 compile >/dev/null) ;;
esac

rows=.setup/demo/node_modules/vega-datasets/data/flights-20k.json
if [ ! -s "$rows" ]; then
    mkdir -p .setup/demo
    npm install --silent --no-audit --no-fund --prefix .setup/demo vega-datasets@3.2.1 || true
fi
if [ ! -s "$rows" ]; then
    echo "demo: the npm package vega-datasets could not be installed; using the slice in demo/data" >&2
    rows=demo/data/flights-500.json
fi
exec target/debug/hstream-demo --rows "$rows" --repeat 10 --languages "$languages"
