#!/usr/bin/env bash
# Builds what the demo needs, gets the rows and runs it.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build -q --locked -p hstream-server -p hstream-demo

rows=.setup/demo/node_modules/vega-datasets/data/flights-20k.json
if [ ! -s "$rows" ]; then
    mkdir -p .setup/demo
    npm install --silent --no-audit --no-fund --prefix .setup/demo vega-datasets@3.2.1 || true
fi
if [ ! -s "$rows" ]; then
    echo "demo: the npm package vega-datasets could not be installed; using the slice in demo/data" >&2
    rows=demo/data/flights-500.json
fi
exec target/debug/hstream-demo --rows "$rows" --repeat 10 --languages "${LANGUAGES:-rust}"
